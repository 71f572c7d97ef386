"""What the original software makes of cookies and sessions; see ``tests/vectors/session.mjs``."""

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["VECTORS"]

VECTORS: Final[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "session.json").read_text())
