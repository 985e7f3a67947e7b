#!/bin/sh
# Install the programs that are not Python packages (lrzip, zpaq, bubblewrap), through the system's package manager where that is allowed.
# Never fails: without lrzip or zpaq that codec is shown as unavailable, without bubblewrap no score is ruled, and everything else runs.
missing=""
for program in lrzip zpaq; do
  command -v "$program" >/dev/null || missing="$missing $program"
done
[ "$(uname)" != Linux ] || command -v bwrap >/dev/null || missing="$missing bubblewrap"
[ -z "$missing" ] && exit 0
as_root=""
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
[ "$as_root" = "no" ] || ! command -v apt-get >/dev/null || $as_root apt-get update -qq >/dev/null 2>&1
for program in $missing; do  # one by one: a system may have one of them and not the other
  if command -v brew >/dev/null; then
    brew install "$program" >/dev/null 2>&1
  elif [ "$as_root" != "no" ]; then
    if command -v apt-get >/dev/null; then
      $as_root apt-get install -y -qq "$program" >/dev/null 2>&1
    elif command -v dnf >/dev/null; then
      $as_root dnf install -y -q "$program" >/dev/null 2>&1
    elif command -v pacman >/dev/null; then
      $as_root pacman -S --noconfirm "$program" >/dev/null 2>&1
    fi
  fi
  command=$program without="its codec will be shown as unavailable"
  [ "$program" != bubblewrap ] || command=bwrap without="audits will be not ruled, because an artifact that lies could read what it must not"
  command -v "$command" >/dev/null || echo "$program could not be installed here (no rights, or no package manager); $without. To add it: sudo apt-get install $program && make repro"
done
exit 0
