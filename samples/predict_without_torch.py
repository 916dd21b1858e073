"""Ask an ensemble in a process that never loads torch.

    python samples/predict_without_torch.py

It asks the ensemble of three_boxes.py, and lets another process make it if it is not there.
"""

import subprocess
import sys
from pathlib import Path

from edge_stl.predict import Ensemble


OUT = Path("runs/samples/three-boxes")

if not (OUT / "ensemble.onnx").is_file():
    maker = Path(__file__).with_name("three_boxes.py")
    subprocess.run([sys.executable, maker], check=True)  # noqa: S603  (our own file)

ensemble = Ensemble(OUT / "ensemble.onnx", threads=1)
photos = [min((OUT / "test" / name).glob("*.png")) for name in ensemble.classes]
probabilities, votes = ensemble.predict(photos)

for photo, p, each in zip(photos, probabilities, votes, strict=True):
    said = [ensemble.classes[row.argmax()] for row in each]
    print(
        f"{photo.parent.name}: the ensemble says {ensemble.classes[p.argmax()]} "
        f"({p.max():.0%}), its branches say {', '.join(said)}"
    )

heavy = sorted({"torch", "onnx", "scipy", "pydantic"} & set(sys.modules))
if heavy:
    raise SystemExit(f"loaded although nobody needs it: {heavy}")
print("loaded: numpy, onnxruntime and Pillow; not torch, not onnx")
