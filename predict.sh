#!/bin/sh
# Segments every case file of the inputs folder. Options and variables: python3 -m inference --help.
# PYTHON names the interpreter, where that is not python3; a relative path counts from this folder.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")"
exec "${PYTHON:-python3}" -m inference "$@"
