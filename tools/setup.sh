#!/bin/sh
# Makes the virtual environment $VENV with regard and its development dependencies, at the versions of constraints.txt.
set -eu

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

"$PYTHON" - <<'END' || { echo "regard needs Python 3.11 or later: set PYTHON, as in: make PYTHON=/usr/bin/python3.12 test" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
END

suitable='
import torch
numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
raise SystemExit(numbers < (2, 9))
'
if "$PYTHON" -c "$suitable" 2>/dev/null; then
    echo "using the PyTorch that is installed"
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv --system-site-packages "$VENV"
else
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    "$VENV/bin/python" -c "$suitable" 2>/dev/null ||
        "$VENV/bin/python" -m pip install --quiet "$(grep '^torch==' constraints.txt)"
fi

# PyTorch is settled above: as a constraint its line would replace another suitable version.
others=$(mktemp)
trap 'rm -f "$others"' EXIT
grep -v '^torch==' constraints.txt > "$others"
"$VENV/bin/python" -m pip install --quiet --constraint "$others" --editable '.[dev]'
