"""One branch in torch: module from the layer list, training loop, calibration."""

from edge_stl.branch._calibrate import (
    class_mean_log_loss as class_mean_log_loss,
    fit_temperature as fit_temperature,
)
from edge_stl.branch._facts import Settings as Settings, Trained as Trained
from edge_stl.branch._minibatches import Minibatches as Minibatches
from edge_stl.branch._module import (
    build_module as build_module,
    folded_parameters as folded_parameters,
)
from edge_stl.branch._own import build_own as build_own, own_identity as own_identity
from edge_stl.branch._own_export import need_exporter as need_exporter
from edge_stl.branch._trainer import Trainer as Trainer
from edge_stl.branch._whole import (
    branch_modules as branch_modules,
    whole_network as whole_network,
)
