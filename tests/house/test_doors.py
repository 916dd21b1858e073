"""What each room exports: a name that appears or goes is a decision, written down here."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
DOORS = {
    "edge_stl.bands": "Band Bank Energies FEWEST_IMAGES Filter KERNELS Kernel Sharpness Transform "
    "assemble bank most_images resampling segment sharpness wavelet_names",
    "edge_stl.plan": "Branch NAME_PATTERN Plan describe nearest networks new_plan "
    "one_line plan_from_document plan_toml read_plan",
    "edge_stl.gate": "GRAPH_OPERATORS JsonCaps MANIFEST_CAPS MAX_FILE_BYTES OPERATORS Outline "
    "RECORD_CAPS Refused Unreadable scan_model strict_json",
    "edge_stl.fusion": "CLIP DATA_FREE MEDIAN_FLOOR Member Scores asked_so_far calibration_scale "
    "cascade evidence fuse fuse_median geometric_weights largest_change log_prior median_answers "
    "member_probabilities plan_weights reliability reliability_weights score softmax stage_factors "
    "uniform_weights voters",
    "edge_stl.images": "Chosen Fit Identities ImageList ImageReader Ledger LeftOutFile "
    "LeftOutFiles Paths REASONS ReadLimits UnreadableImage as_utf_8 class_names decode "
    "fit_square fitted_side identities native_resolution read_size scan",
    "edge_stl.predict": "Ensemble Evaluation Slots evaluate",
    "edge_stl.deploy": "Status deploy go_back status",
    "edge_stl.layers": "Analysis Bandwise FromBands SpectralBatchNorm1d SpectralBatchNorm2d "
    "SpectralConv2d SpectralLinear StableTensorBlock Synthesis ToBands TubeTransform block_matrix "
    "dct dft from_matrix haar identity identity_tensor join split stable_tensor_network "
    "tensor_product tensor_transpose tube_transform wavelet",
    "edge_stl.branch": "Minibatches Settings Trained Trainer branch_modules "
    "build_module build_own class_mean_log_loss fit_temperature "
    "folded_parameters need_exporter own_identity whole_network",
    "edge_stl.cotrain": "Batch Bytes Choco ChocoSettings CompNGC FRAME_BYTES FedClient "
    "FedDIPSettings FedServer Flat FullSharing Graph HEADER_BYTES Jwins "
    "JwinsSettings Ledger LocalSGD LocalSettings Message Messages "
    "ModuleProblem NGC NGCSettings Node PCASettings Problem RandomSampling "
    "RandomSettings Replicas Round SERVER Seat Sparse Wavelet "
    "compress_signs fed_bytes gradient_weights largest metropolis mix "
    "neighbourhood_gradient pack_floats pack_indices pack_signs "
    "quasi_global_momentum run_server run_together scaled_signs sign_bytes "
    "unpack_floats unpack_indices unpack_signs",
    "edge_stl.trust": "BranchStatement COUNTER_FILE EnsembleStatement Numbers "
    "Owner PrivateKey PublicKey Seen Statement Trust Verdict add_key envelope_path judge "
    "load_private_key load_public_key make_key need_signing read_envelope_beside read_seen "
    "read_trust remember revoke_keys seen_path sign_branch sign_ensemble trusted_ensemble",
    "edge_stl.fleet": "bands_picture",
    "edge_stl.service": "Hours Log Notifier Settings Summary Teller Unit Watch parse_hours "
    "unit_text",
    "device_agent.doctor": "Check default_work_root examine worst",
}

SIDE_DOORS = {
    "edge_stl.fusion": {"audit", "crossfit", "fitted", "threshold"},
    "edge_stl.cotrain": {"pca_hook"},
}
"""Modules that need an extra or a holdout: imported by name, and in the room once somebody did."""


@pytest.mark.parametrize("room", DOORS)
def test_a_room_exports_these_names_and_no_others(room: str):
    exported = {name for name in vars(importlib.import_module(room)) if not name.startswith("_")}

    assert exported - SIDE_DOORS.get(room, set()) == set(DOORS[room].split())


def test_a_room_does_not_open_its_side_doors_itself():
    for room, doors in SIDE_DOORS.items():
        code = (
            f"import sys, {room}; print(*({{f'{room}.{{d}}' for d in {doors}}} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == []


@pytest.mark.parametrize("room", DOORS)
def test_a_room_and_the_classes_and_functions_it_exports_say_what_they_are(room: str):
    module = importlib.import_module(room)

    assert module.__doc__
    for name in DOORS[room].split():
        thing = getattr(module, name)
        assert thing.__doc__ or not (inspect.isclass(thing) or inspect.isfunction(thing)), name
