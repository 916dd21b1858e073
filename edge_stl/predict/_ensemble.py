"""Run an ensemble with numpy and onnxruntime alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_stl.durable import read_once
from edge_stl.errors import DataError, UsageError
from edge_stl.gate import MAX_FILE_BYTES, RECORD_CAPS, Refused, scan_model, strict_json
from edge_stl.predict._cascade import CascadeStage, stages_in
from edge_stl.predict._vector import vector_in


Image = str | Path | NDArray[np.uint8]
_MOST_IMAGES = 64
_MOST_PIXELS = 1 << 20  # of a batch: what the bands of large images take would else fill the memory


class Ensemble:
    """An ``ensemble.onnx`` file, ready to answer.

    Args:
        path: the file, or its bytes.
        threads: threads inside onnxruntime; 0 lets it take every core.
        threshold: of a cascade, 0..1, in place of the one in the file.

    Attributes:
        classes: class names in output order.
        branches: ``branch.box`` ids, in the order of ``branch_probabilities``.
        native_resolutions: of each branch's box, in the same order.
        resolution: rows and columns of the input: the plan's R, unless merged for coarser cameras.
        channels: 1 or 3.
        batch_size: images that the graph gets at a time: 64, fewer where they are large, 1 in a
            cascade, which goes on for all images of a batch until it is sure of each.
        stages: of a cascade, coarse first; empty for others.
        threshold: of a cascade, 0..1; None for others.
        vector: what it answers to its test image, ``(K,)``; None in files of earlier versions.

    Raises:
        DataError: the file is missing, damaged, or not an ensemble of edge-stl.
        UsageError: onnxruntime is not installed, or a threshold is no share or not for a cascade.
    """

    def __init__(
        self, path: str | Path | bytes, *, threads: int = 0, threshold: float | None = None
    ) -> None:
        self._path = Path("ensemble" if isinstance(path, bytes) else path)
        data = path if isinstance(path, bytes) else _read(self._path)
        meta, unsaid = _gate(data, self._path)
        try:
            record = strict_json(meta["edge_stl.ensemble"], RECORD_CAPS)
            _need_said(unsaid, record, self._path)
            plan, self.layout = record["plan"], record["options"]["layout"]
            self.classes: tuple[str, ...] = tuple(plan["classes"])
            # one for coarser cameras says so; all others take the plan's
            own = record["options"].get("resolution")
            self.resolution: int = plan["input"]["resolution"] if own is None else own
            self._coarser_sides = _coarser_resolutions(plan)
            self.batch_size = max(1, min(_MOST_IMAGES, _MOST_PIXELS // self.resolution**2))
            self.channels: int = plan["input"].get("channels", 3)
            self.fit: Literal["crop", "pad", "stretch"] = plan["input"].get("fit", "crop")
            limits = plan.get("limits", {})
            self._max_pixels: int = limits.get("max_image_pixels", 100_000_000)
            self._max_bytes: int = limits.get("max_image_bytes", 100_000_000)
            manifests = [member["manifest"] for member in record["members"]]
            self.branches: tuple[str, ...] = tuple(f"{m['branch']}.{m['box']}" for m in manifests)
            self.native_resolutions: tuple[int, ...] = tuple(
                m["native_resolution"] for m in manifests
            )
            self.vector = vector_in(meta, len(self.classes))
            self.stages: tuple[CascadeStage, ...] = stages_in(record, self.branches)
            self.threshold: float | None = None
            if self.stages:
                self.batch_size = 1
                self.threshold = float(record["cascade"]["threshold"])
        except (
            ArithmeticError,
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise DataError(
                f"{self._path}: its metadata is damaged ({type(error).__name__}: {error}). Merge "
                "the branch files again"
            ) from None
        if threshold is not None:
            self._override(threshold)
        self._session = _open(data, self._path, threads)
        self._need_interface()

    def _need_interface(self) -> None:
        """Refuse a graph that takes or gives something else than its metadata says."""
        side, planes = self.resolution, self.channels
        classes = len(self.classes)
        expected = {
            "image": [side, side, planes] if self.layout == "nhwc" else [planes, side, side],
            "probabilities": [classes],
            "branch_probabilities": [len(self.branches), classes],
        }
        found = {v.name: v for v in (*self._session.get_inputs(), *self._session.get_outputs())}
        # onnxruntime leaves open what an If gives: strings and None there say nothing
        if set(found) != set(expected) or any(
            len(found[name].shape) != len(shape) + 1
            or any(
                a != b for a, b in zip(found[name].shape[1:], shape, strict=True) if type(a) is int
            )
            for name, shape in expected.items()
        ):
            raise DataError(
                f"{self._path}: its graph and its metadata differ in what goes in or comes out. "
                "Merge the branch files again"
            )

    def _override(self, threshold: float) -> None:
        if not self.stages:
            raise UsageError(
                f"--threshold {threshold}: {self._path} is no cascade; expected an ensemble that "
                "'edge-stl merge --cascade' wrote. Leave --threshold out"
            )
        if not 0 <= threshold <= 1:
            raise UsageError(f"--threshold {threshold}: is no share; expected a number from 0 to 1")
        self.threshold = threshold

    def __call__(self, images: Image | Sequence[Image]) -> NDArray[np.float32]:
        """Return probabilities ``(N, K)`` float32 in 0..1; see `predict` for what images may be."""
        return self.predict(images)[0]

    def predict(
        self, images: Image | Sequence[Image]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answer images.

        Args:
            images: one file or array, a sequence of them, or an array ``(N, H, W, C)``. Arrays
                are uint8, ``(H, W, C)`` or ``(H, W)`` for one channel; larger than R they are
                area-averaged (any size through Pillow, integer ratios by numpy).

        Returns:
            ``probabilities (N, K)`` and ``branch_probabilities (N, branches, K)``, float32 0..1;
            NaN in the rows of branches that a cascade did not ask.

        Raises:
            DataError: an image cannot be read, has another type, or is smaller than R.
        """
        batch = [self.prepare(image) for image in _as_list(images)]
        if not batch:
            empty = np.zeros((0, len(self.branches), len(self.classes)), np.float32)
            return empty[:, 0], empty
        return self.run(np.stack(batch))

    def run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answer prepared pixels ``(N, R, R, C)`` uint8, as `predict`, batch by batch."""
        parts = []
        for start in range(0, len(pixels), self.batch_size):
            chunk = pixels[start : start + self.batch_size]
            if self.layout == "nchw":
                chunk = np.ascontiguousarray(chunk.transpose(0, 3, 1, 2))
            given: dict[str, NDArray[Any]] = {"image": chunk}
            if self.threshold is not None:
                given["confidence_threshold"] = np.array(self.threshold, np.float32)
            try:
                parts.append(self._session.run(["probabilities", "branch_probabilities"], given))
            except Exception as error:  # noqa: BLE001  (onnxruntime raises types of its own)
                first = str(error).strip().partition("\n")[0][:200]
                raise DataError(
                    f"{self._path}: onnxruntime stopped: {first}. Copy the file again, or merge "
                    "the branch files again"
                ) from None
        return (
            np.concatenate([p for p, _ in parts]),
            np.concatenate([rows for _, rows in parts]),
        )

    def prepare(self, image: Image) -> NDArray[np.uint8]:
        """Return one image as the graph takes it, ``(R, R, C)`` uint8.

        Raises:
            DataError: as `predict`.
        """
        if isinstance(image, str | Path):
            from edge_stl.images import decode  # arrays need no Pillow

            where = str(image)
            pixels = decode(
                Path(image),
                channels=self.channels,
                max_pixels=self._max_pixels,
                max_bytes=self._max_bytes,
            )
        else:
            where = "image array"
            pixels = self._as_pixels(np.asarray(image))
        return self._fitted(pixels, where)

    def _as_pixels(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        if array.dtype != np.uint8:
            raise DataError(
                f"image array: dtype {array.dtype}; expected uint8 pixels in 0..255. Convert it"
            )
        if array.ndim == 2 and self.channels == 1:  # noqa: PLR2004  (rows and columns)
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[2] != self.channels:  # noqa: PLR2004
            raise DataError(
                f"image array: shape {array.shape}; expected (rows, columns, {self.channels})"
            )
        return array

    def _fitted(self, pixels: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        side = self.resolution
        if (height, width) == (side, side):
            return pixels
        reach = max(height, width) if self.fit == "pad" else min(height, width)
        if reach < side:
            raise DataError(
                f"{where}: {width}x{height} pixels; this ensemble takes {side}x{side} and larger, "
                f"and images are never enlarged. Give it finer images, or {self._coarser(reach)}"
            )
        from edge_stl.images import fit_square  # see above

        return fit_square(pixels, side, self.fit)

    def _coarser(self, reach: int) -> str:
        """Say which ensemble takes images of ``reach`` pixels."""
        fits = [r for r in self._coarser_sides if r <= reach]
        if not fits:
            return "an ensemble of another plan: this one has no resolution that small"
        return f"an ensemble for such cameras, which 'edge-stl merge --resolution {fits[0]}' makes"


def _coarser_resolutions(plan: dict[str, Any]) -> tuple[int, ...]:
    """Return the resolutions below R that the plan's boxes may have, finest first."""
    transform = plan["transform"]
    halvings = {
        "wavelet": transform.get("levels"),
        "dct": transform.get("size", 1).bit_length() - 1,
    }
    found = halvings.get(transform["kind"]) or 0
    return tuple(plan["input"]["resolution"] >> k for k in range(1, found + 1))


def _read(path: Path) -> bytes:
    # the one who predicts names the file: a link to the newest ensemble is an ordinary thing
    return read_once(path, most=MAX_FILE_BYTES, expected="an ensemble", links=True).data


def _gate(data: bytes, where: Path) -> tuple[dict[str, str], list[str]]:
    """Return the metadata of an ensemble that holds nothing but what a merge writes.

    And the operators that only networks of the user's own have.

    What is left can compute and nothing else: no file, no code, no operator of another domain.

    Raises:
        DataError: it holds more, or is no ensemble.
    """
    try:
        outline = scan_model(data)
    except Refused as verdict:
        raise DataError(f"{where}: {verdict}. Copy it again") from None
    if outline.metadata.get("edge_stl.kind") != "ensemble":
        raise DataError(
            f"{where}: not an ensemble of edge-stl; expected the file that 'edge-stl merge' wrote. "
            "Check the path"
        )
    if outline.foreign:
        raise DataError(
            f"{where}: has {', '.join(outline.foreign)}; no file of edge-stl has. Merge the branch "
            "files again"
        )
    return outline.metadata, outline.graph_operators


def _need_said(operators: Sequence[str], record: Any, where: Path) -> None:
    """Refuse operators of networks of the user's own in an ensemble that says it has none.

    Raises:
        DataError: naming them.
    """
    if operators and not record.get("graphs"):
        raise DataError(
            f"{where}: has {', '.join(f'operator {name!r}' for name in operators)}; no file of "
            "edge-stl without graphs of its own has. Merge the branch files again"
        )


def _open(data: bytes, where: Path, threads: int) -> Any:
    try:
        import onnxruntime as ort  # the missing-extra line must be ours
    except ImportError:
        raise UsageError("prediction needs onnxruntime: pip install 'edge-stl[predict]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (onnxruntime raises types of its own)
        if re.search(r"IR.version|opset", str(error), re.IGNORECASE):
            raise DataError(
                f"{where}: onnxruntime {ort.__version__} is too old for it, it does not know its "
                "IR version or opset; 'edge-stl merge' writes what 1.16 knows. Use that file, or a "
                "newer onnxruntime"
            ) from None
        raise DataError(
            f"{where}: onnxruntime cannot load it; it is no ONNX file, or damaged. Copy it again"
        ) from None


def _as_list(images: Image | Sequence[Image]) -> list[Image]:
    if isinstance(images, str | Path):
        return [images]
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]  # noqa: PLR2004  (N, H, W, C)
    return list(images)
