#!/bin/sh
# Install the programs that are not Python packages (today: lrzip), through the system's package manager where that is allowed.
# Never fails: without lrzip its codec is shown as unavailable and everything else runs.
command -v lrzip >/dev/null && exit 0
as_root=""
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
if command -v brew >/dev/null; then
  brew install lrzip >/dev/null 2>&1
elif [ "$as_root" != "no" ]; then
  if command -v apt-get >/dev/null; then
    { $as_root apt-get update -qq && $as_root apt-get install -y -qq lrzip; } >/dev/null 2>&1
  elif command -v dnf >/dev/null; then
    $as_root dnf install -y -q lrzip >/dev/null 2>&1
  elif command -v pacman >/dev/null; then
    $as_root pacman -S --noconfirm lrzip >/dev/null 2>&1
  fi
fi
command -v lrzip >/dev/null || echo "lrzip could not be installed here (no rights, or no package manager); its codec will be shown as unavailable. To add it: sudo apt-get install lrzip && make repro"
exit 0
