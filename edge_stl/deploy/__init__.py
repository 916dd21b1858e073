"""Putting an ensemble into service on a box: tested in a child, switched by one rename, undone."""

from edge_stl.deploy._deploy import (
    Status as Status,
    deploy as deploy,
    go_back as go_back,
    status as status,
)
