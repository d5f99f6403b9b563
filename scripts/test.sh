#!/usr/bin/env bash
# Creates an environment, installs yolo9000 with its development tools and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
pip install --quiet --disable-pip-version-check --editable '.[dev]'
exec pytest "$@"
