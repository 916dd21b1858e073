"""Image files of a box: listing them, decoding them safely, fitting them to squares.

Importing this room needs numpy alone; Pillow is imported when the first file is read.
"""

from edge_stl.images._decode import decode as decode, read_size as read_size
from edge_stl.images._fit import (
    Fit as Fit,
    fit_square as fit_square,
    fitted_side as fitted_side,
    native_resolution as native_resolution,
)
from edge_stl.images._identities import Identities as Identities, identities as identities
from edge_stl.images._image_list import ImageList as ImageList
from edge_stl.images._infer import class_names as class_names
from edge_stl.images._left_out import (
    Ledger as Ledger,
    LeftOutFile as LeftOutFile,
    LeftOutFiles as LeftOutFiles,
)
from edge_stl.images._paths import Chosen as Chosen, Paths as Paths
from edge_stl.images._reader import ImageReader as ImageReader
from edge_stl.images._reader_limits import ReadLimits as ReadLimits
from edge_stl.images._reasons import REASONS as REASONS, UnreadableImage as UnreadableImage
from edge_stl.images._scan import scan as scan
from edge_stl.images._text import as_utf_8 as as_utf_8
