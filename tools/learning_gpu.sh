#!/usr/bin/env bash
# One task's table of docs/results.md on one NVIDIA card, in ten minutes: imitation, reinforcement and the control that
# imitates as long, on as many seeds as the time is enough for.
#
#   tools/learning_gpu.sh [RECIPE [OUTPUT]]      RECIPE: calc_x_cpu (default), spider_cpu or musique_cpu, whose data
#                                                AL_RAY_DATA names; tools/card.sh says how to bring wheels along
#
# The same command goes on where the time was over. OUTPUT (default learning_gpu/) gets the scores of every task, the
# figures of every step, report.md with its curves, and summary.txt; the exit code is the number of parts that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/card.sh
[[ ${1:-} == --pack ]] && { pack "${2:?FOLDER}"; exit; }

recipe=${1:-calc_x_cpu}
begin "${2:-learning_gpu}"
# Ended by the clock, it has told of each job that was whole.
part learning $((570 - SECONDS)) .venv/bin/python -m benchmarks.learning.arms "$recipe" --seeds 3 --folder "$out" \
    --without taught --set placement.device=gpu --set model.dtype=bfloat16 --set checkpoint.keep=1
[[ -f $out/report.md ]] && summary "$(cat "$out/report.md")"
exit "$failed"
