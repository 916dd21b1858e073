"""Boxes that share a band train one branch together over a thin link.

Every method is pure functions on tensors (compress, mix, update) and a node that runs them; the
ledger counts the bytes of all methods in one way.
"""

from edge_stl.cotrain._choco import Choco as Choco, ChocoSettings as ChocoSettings
from edge_stl.cotrain._elias import pack_indices as pack_indices, unpack_indices as unpack_indices
from edge_stl.cotrain._fedclient import FedClient as FedClient
from edge_stl.cotrain._feddip import FedDIPSettings as FedDIPSettings
from edge_stl.cotrain._fedrun import SERVER as SERVER, run_server as run_server
from edge_stl.cotrain._fedserver import FedServer as FedServer
from edge_stl.cotrain._fedwire import fed_bytes as fed_bytes
from edge_stl.cotrain._full import FullSharing as FullSharing
from edge_stl.cotrain._graph import Graph as Graph, metropolis as metropolis, mix as mix
from edge_stl.cotrain._jwins import Jwins as Jwins, JwinsSettings as JwinsSettings
from edge_stl.cotrain._ledger import Bytes as Bytes, Ledger as Ledger
from edge_stl.cotrain._local import LocalSettings as LocalSettings, LocalSGD as LocalSGD
from edge_stl.cotrain._message import (
    FRAME_BYTES as FRAME_BYTES,
    HEADER_BYTES as HEADER_BYTES,
    Message as Message,
    pack_floats as pack_floats,
    unpack_floats as unpack_floats,
)
from edge_stl.cotrain._ngc import (
    NGC as NGC,
    CompNGC as CompNGC,
    NGCSettings as NGCSettings,
    gradient_weights as gradient_weights,
    neighbourhood_gradient as neighbourhood_gradient,
    quasi_global_momentum as quasi_global_momentum,
)
from edge_stl.cotrain._node import (
    Messages as Messages,
    Node as Node,
    Round as Round,
    Seat as Seat,
)
from edge_stl.cotrain._pca_settings import PCASettings as PCASettings
from edge_stl.cotrain._problem import (
    Batch as Batch,
    Flat as Flat,
    ModuleProblem as ModuleProblem,
    Problem as Problem,
)
from edge_stl.cotrain._random import (
    RandomSampling as RandomSampling,
    RandomSettings as RandomSettings,
)
from edge_stl.cotrain._replicas import Replicas as Replicas
from edge_stl.cotrain._sign import (
    compress_signs as compress_signs,
    pack_signs as pack_signs,
    scaled_signs as scaled_signs,
    sign_bytes as sign_bytes,
    unpack_signs as unpack_signs,
)
from edge_stl.cotrain._sparse import Sparse as Sparse, largest as largest
from edge_stl.cotrain._together import run_together as run_together
from edge_stl.cotrain._wavelet import Wavelet as Wavelet
