#!/usr/bin/env bash
# Creates an environment, installs yolo9000 and detects on a bundled photo with the built-in model.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
pip install --quiet --disable-pip-version-check .
exec yolo9000 detect --demo --tree "$@"
