# What the scripts for one NVIDIA card share, sourced by them: packing, installing, parts with limits.
#
#   SCRIPT --pack FOLDER     on a machine with the network: wheels and the model into FOLDER
#   WHEELS=FOLDER SCRIPT     then, on a bare machine: installs from there alone
#
# Each part has a limit of its own and goes on after a failure of another.

PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3)}
MODEL=HuggingFaceTB/SmolLM2-135M-Instruct
failed=0

# pack FOLDER
pack() {
    mkdir -p "$1"
    "$PYTHON" -m pip wheel --quiet --wheel-dir "$1" uv ".[gpu,gguf,test]" setuptools wheel
    echo "packed $(du -sh "$1" | cut -f1) in $1"
}

# summary WORDS...: a line of OUTPUT/summary.txt.
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

# begin OUTPUT: says which card, and installs al_ray and the model.
begin() {
    out=$1
    mkdir -p "$out"
    : >"$out/summary.txt"
    command -v nvidia-smi >/dev/null || { summary "no NVIDIA card here: nothing is done"; exit 1; }
    summary "$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader)"
    summary "$(git rev-parse --short HEAD 2>/dev/null || echo 'no checkout'), $(date -u +%FT%TZ)"
    if [[ -n ${WHEELS:-} ]]; then
        wheels=$(realpath "$WHEELS")
        export PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels UV_NO_INDEX=1 UV_FIND_LINKS=$wheels
    fi
    part install 240 make install-test BUILD=gpu PYTHON="$PYTHON"
    part model 60 .venv/bin/al-ray model "$MODEL"
}
