#!/usr/bin/env bash
# Run GPU scripts of this folder, also on a machine without network: `gpu/run.sh [SCRIPT [ARGUMENT …]]`.
#
#   run.sh                  everything, one after the other
#   run.sh speed            one of: probes speed grid t4_path t4_kernels agree again resume watched notebooks
#   run.sh notebooks 05 06  some notebooks
#   run.sh grid --jobs 4    several at once (grid and notebooks), on a GPU with room for them
#
# README.md in this folder says what it needs, how long it takes, and what to bring back.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=${COURSE_SCRATCH:-/tmp/lora-course}
archive=build/gpu-site-packages.tar.xz
[ -f "$archive" ] || { echo "$archive is missing: make it with gpu/pack.sh." >&2; exit 1; }
# A folder with the right name is whole, and says which archive it came from.
sum=$(sha256sum < "$archive")
if [ "$(cat "$scratch/site/.archive" 2> /dev/null)" != "$sum" ]; then
  rm -rf "$scratch/site" "$scratch/site.half"
  mkdir -p "$scratch/site.half"
  tar -C "$scratch/site.half" -xJf "$archive"
  echo "$sum" > "$scratch/site.half/.archive"
  mv "$scratch/site.half" "$scratch/site"
fi
export PYTHONPATH="$scratch/site" PYTHONUNBUFFERED=1 JUPYTER_PATH="$scratch/site/share/jupyter"
export HF_HUB_OFFLINE=1 PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/build/gpu-wheels"
export COURSE_INSTALL=0 COURSE_T4=1 COURSE_SIZE=full MODELS="${MODELS:-$scratch/models}"
export COURSE_WORKSPACE="$scratch/workspace" COURSE_MODEL="$MODELS/llama-2-7b-bnb-4bit"
wanted=(llama-2-7b)
[[ ${1:-t4_kernels} =~ ^(t4_kernels|t4_path|agree)$ ]] && wanted+=(llama-wide)
[[ ${1:-grid} == grid ]] && wanted+=(llama-3.2-3b)
for name in "${wanted[@]}"; do
  [ -d "$MODELS/$name-bnb-4bit" ] || python3 gpu/make_llama.py "$MODELS" "$name"
done
python3 gpu/common.py
if [ $# -gt 0 ]; then
  script=$1
  shift
  exec python3 "gpu/$script.py" "$@"
fi
failed=0
for script in probes speed grid t4_path t4_kernels agree again resume watched notebooks; do
  python3 "gpu/$script.py" || failed=1
done
python3 gpu/collect.py
exit $failed
