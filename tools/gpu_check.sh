#!/usr/bin/env bash
# What only a GPU can show, on one NVIDIA card, in twelve minutes: the tests marked gpu, in float32 and bfloat16, and a
# short whole training, with tokens a second and the peak of memory beside the estimate.
#
#   tools/gpu_check.sh [OUTPUT]          on a machine with the network: installs, then checks
#   tools/gpu_check.sh --pack FOLDER     before, on a machine with the network: wheels and the model into FOLDER
#   WHEELS=FOLDER tools/gpu_check.sh     then, on a bare machine: installs from there alone
#
# Each part has a limit of its own and goes on after a failure of another; the exit code is the number of parts that
# failed. OUTPUT (default gpu_check/) gets a log of each part, the run's metrics, and summary.txt.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3)}
MODEL=HuggingFaceTB/SmolLM2-135M-Instruct

if [[ ${1:-} == --pack ]]; then
    folder=${2:?FOLDER}
    mkdir -p "$folder"
    "$PYTHON" -m pip wheel --quiet --wheel-dir "$folder" uv ".[gpu,gguf,test]" setuptools wheel
    echo "packed $(du -sh "$folder" | cut -f1) in $folder"
    exit
fi

out=${1:-gpu_check}
mkdir -p "$out"
failed=0
summary() { echo "$*" | tee -a "$out/summary.txt"; }

# part NAME SECONDS COMMAND...: its log in OUTPUT/NAME.log, a line in the summary.
part() {
    local name=$1 limit=$2 begun=$SECONDS
    shift 2
    if timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1; then
        summary "$name: ok, $((SECONDS - begun)) s"
    else
        summary "$name: FAILED with $?, $((SECONDS - begun)) s; the end of its log:"
        tail -n 15 "$out/$name.log" | tee -a "$out/summary.txt"
        failed=$((failed + 1))
    fi
}

: >"$out/summary.txt"
command -v nvidia-smi >/dev/null || { summary "no NVIDIA card here: nothing is checked"; exit 1; }
summary "$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader)"
summary "$(git rev-parse --short HEAD 2>/dev/null || echo 'no checkout'), $(date -u +%FT%TZ)"

if [[ -n ${WHEELS:-} ]]; then
    wheels=$(realpath "$WHEELS")
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels UV_NO_INDEX=1 UV_FIND_LINKS=$wheels
fi
part install 240 make install-test BUILD=gpu PYTHON="$PYTHON"
part model 60 .venv/bin/al-ray model "$MODEL"
for dtype in float32 bfloat16; do
    part "tests_$dtype" 240 .venv/bin/pytest -m gpu -k "$dtype" -q --durations=5
done

# The run of the README, on the card, short: imitation, then reinforcement, with evaluations.
nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=500 >"$out/memory.csv" &
watcher=$!
part train 240 .venv/bin/al-ray train recipes/calc_x_cpu.yaml --run gpu_check \
    --set "output=$out/run" --set placement.device=gpu --set model.dtype=bfloat16 \
    --set stages.0.steps=8 --set stages.1.steps=5 --set evaluation.tasks=64
kill "$watcher"
summary "peak of the card's memory: $(sort -n "$out/memory.csv" | tail -1) MiB"
.venv/bin/python - "$out" <<'END' | tee -a "$out/summary.txt"
import json
import statistics
import sys
from pathlib import Path

lines = [
    json.loads(line)
    for file in Path(sys.argv[1]).glob("run/**/metrics.jsonl")
    for line in file.read_text().splitlines()
]
for key in ("perf/generated_tokens_per_s", "perf/trained_tokens_per_s", "off_policy/mismatch_kl"):
    values = [line[key] for line in lines if line.get(key) is not None]
    print(f"{key}: median {statistics.median(values):.6g} of {len(values)} steps" if values else f"{key}: none")
for line in lines:
    if line.get("eval/accuracy") is not None:
        print(f"after step {line['step']}: accuracy {line['eval/accuracy']:.3f} ± {line['eval/stderr']:.3f}")
    for key in line:
        if key.endswith("_gib"):
            print(f"step {line['step']}: {key} {line[key]:.4g}")
END
exit "$failed"
