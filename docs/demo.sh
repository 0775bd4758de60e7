#!/bin/sh
# The main job, end to end: four bare machines become a cluster that has proved itself, then a link
# is made slow and the doctor names it. Run by `make demo`; needs root and clusterctl on PATH.
set -eu

lab=demo

bold='' plain=''
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] && bold=$(printf '\033[1m') plain=$(printf '\033[0m')

say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }
run() { say "$@"; "$@"; }
cleanup() { clusterctl lab down --name "$lab" >/dev/null 2>&1 || true; }

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cleanup

run clusterctl lab up --nodes 4 --name "$lab"
run clusterctl provision -i "lab:$lab"
run clusterctl doctor -i "lab:$lab"

run clusterctl lab fault add --name "$lab" node3 slow-link
say clusterctl doctor -i "lab:$lab"
status=0
clusterctl doctor -i "lab:$lab" || status=$?
[ "$status" -eq 1 ] || { echo "demo: expected NOT READY (exit code 1), got $status" >&2; exit 1; }

run clusterctl lab down --name "$lab"
printf '\nThe doctor said READY, then found the slow link. Next: clusterctl lab --help, docs/guide/\n'
