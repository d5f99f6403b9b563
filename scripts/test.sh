#!/usr/bin/env bash
# Creates an environment, installs yolo9000 with its development tools and runs the tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
pip install --quiet --disable-pip-version-check --editable '.[dev]'
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # one thread a process: the processes share the cores
exec pytest --numprocesses auto --dist loadfile "$@"
