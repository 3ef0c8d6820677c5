"""Runs the notebooks in fresh kernels, and keeps what they show.

python notebooks/execute.py [01 …]
"""

import base64
import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def executed(path: Path, before: str = "") -> Any:
    """The notebook, run from top to bottom in a kernel of its own, after the code `before`.

    Raises nbclient's CellExecutionError.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    with TemporaryDirectory() as folder:  # sockets in files: no other user can reach the kernel
        connection = str(Path(folder) / "kernel.json")
        kernel = AsyncKernelManager(transport="ipc", connection_file=connection)
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=3600,
            coalesce_streams=True,  # or a slow machine's outputs would come in more pieces
            record_timing=False,
            resources={"metadata": {"path": HERE}},
        )
        nobodys = {**os.environ, "IPYTHONDIR": folder}  # no start-up files of whoever runs it
        client.execute(cleanup_kc=True, env=nobodys)  # without cleanup_kc the kernel would stay
    del notebook.cells[0]
    return notebook


def kept(notebook: Any) -> Any:
    """Without what changes with the machine, and with small pictures."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.metadata, cell.execution_count = nbformat.from_dict({}), number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
            data = output.get("data", {})
            if data.get("text/plain", "").startswith(("<IPython.core.display.", "<Figure ")):
                del data["text/plain"]
            if "image/png" in data:
                data["image/png"] = _small(data["image/png"])
    return notebook


def _small(png: str) -> str:
    """With 64 colours, which is a sixth of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).quantize(
        64, method=Image.Quantize.FASTOCTREE
    )
    picture.save(smaller := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


if __name__ == "__main__":
    for path in NOTEBOOKS:
        if path.name.startswith(tuple(sys.argv[1:]) or ""):
            nbformat.write(kept(executed(path)), path)
            print(f"{path.name}: {path.stat().st_size // 1024} KB")
