"""The one way in which files that must survive a power cut are written, and proved when read.

`write_durably` for what a person takes away: branch files, ensembles, plans, tables. A record,
for what a later run trusts: checkpoints, caches, markers of what is done. It carries its own
digest, and the generation before it is kept. `write_passing` is for what is written again every
few seconds and may be lost. Nothing else in this project opens a file to write
it, with the exceptions that ``tests/house/test_writers.py`` names. `read_once` reads what came from
outside.
"""

from edge_stl.durable._files import (
    PartFile,
    make_folder,
    publish,
    publish_folder,
    remove,
    remove_leftovers,
    write_durably,
    write_passing,
)
from edge_stl.durable._lock import locked, take_lock
from edge_stl.durable._new_file import write_new
from edge_stl.durable._once import Copied, read_once
from edge_stl.durable._records import (
    Record,
    discard_record,
    previous_of,
    read_record,
    write_record,
)


__all__ = [
    "Copied",
    "PartFile",
    "Record",
    "discard_record",
    "locked",
    "make_folder",
    "previous_of",
    "publish",
    "publish_folder",
    "read_once",
    "read_record",
    "remove",
    "remove_leftovers",
    "take_lock",
    "write_durably",
    "write_new",
    "write_passing",
    "write_record",
]
