"""The plan: validated, frozen, with canonical bytes and a digest; and the networks it can name."""

from edge_stl.plan import networks as networks
from edge_stl.plan._file import (
    describe as describe,
    one_line as one_line,
    plan_from_document as plan_from_document,
    read_plan as read_plan,
)
from edge_stl.plan._nearest import nearest as nearest
from edge_stl.plan._new import new_plan as new_plan, plan_toml as plan_toml
from edge_stl.plan._plan import Plan as Plan
from edge_stl.plan._sections import NAME_PATTERN as NAME_PATTERN, Branch as Branch
