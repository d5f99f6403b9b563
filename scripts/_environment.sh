# Sourced by demo.sh and test.sh: makes .venv beside the checkout's files and puts its programs first on PATH.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")
PY
[ -x .venv/bin/python ] || "$python" -m venv .venv || exit 1
export PATH="$PWD/.venv/bin:$PATH"
