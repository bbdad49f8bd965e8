#!/bin/sh
# Build adbd, the daemon that runs on phones, for this desk, from Debian's source of android-platform-tools.
#
#     tests/harness/device/build_adbd.sh [FOLDER]
#
# FOLDER (default: adbd in the tests' own cache, tests/.cache or UDACISENSE_TESTS_CACHE) then holds `adbd`; nothing is done where it does already.
# Sources come through the host's own apt sources, with state and cache folders of their own: apt itself is not touched.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-${UDACISENSE_TESTS_CACHE:-$here/../../.cache}/adbd}
[ -x "$out/adbd" ] && { echo "$out/adbd is there"; exit 0; }
needed="adb dpkg-dev g++ android-libbase-dev android-libcutils-dev android-liblog-dev android-libboringssl-dev libcap-dev"
missing=
for package in $needed; do
  dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] || { echo "error: Debian packages are missing; sudo apt-get install$missing" >&2; exit 2; }
mkdir -p "$out"
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

cd "$work"
mkdir -p lists/partial cache parts
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
  sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >parts/debian.sources
else
  sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >parts/debian.list
fi
own_apt() {
  apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
own_apt update
own_apt source android-platform-tools >/dev/null
cd android-platform-tools-*/
# These annotations are clang's; g++ takes none on the definition of a function.
sed -i 's/^#define THREAD_ANNOTATION_ATTRIBUTE__(x).*/#define THREAD_ANNOTATION_ATTRIBUTE__(x)/' \
  system/core/base/include/android-base/thread_annotations.h
# Listening on a named host works, but leaves an errno behind that its caller takes for a failure.
sed -i 's/serverfd = listen_func(addr, &error);/& if (serverfd >= 0) errno = 0;/' system/core/adb/transport_local.cpp

adb=system/core/adb
sources="
  $adb/adb.cpp $adb/adb_io.cpp $adb/adb_listeners.cpp $adb/adb_trace.cpp $adb/adb_unique_fd.cpp $adb/adb_utils.cpp
  $adb/fdevent/fdevent.cpp $adb/fdevent/fdevent_poll.cpp $adb/fdevent/fdevent_epoll.cpp $adb/services.cpp
  $adb/sockets.cpp $adb/socket_spec.cpp $adb/sysdeps/errno.cpp $adb/transport.cpp $adb/transport_fd.cpp
  $adb/transport_local.cpp $adb/transport_usb.cpp $adb/types.cpp $adb/sysdeps_unix.cpp $adb/sysdeps/posix/network.cpp
  $adb/shell_service_protocol.cpp $adb/daemon/auth.cpp $adb/daemon/jdwp_service.cpp $adb/daemon/usb_dummy.cpp
  $adb/daemon/file_sync_service.cpp $adb/daemon/services.cpp $adb/daemon/shell_service.cpp $adb/daemon/main.cpp
  $adb/adbconnection/adbconnection_server.cpp system/core/diagnose_usb/diagnose_usb.cpp
  frameworks/native/libs/adbd_auth/adbd_auth.cpp $here/properties.cpp"
includes="
  -Isystem/core/base/include -I/usr/include/android -I$adb -I$adb/daemon/include -I$adb/adbconnection/include
  -Isystem/core/include -Isystem/core/diagnose_usb/include -Isystem/core/libcrypto_utils/include
  -Isystem/core/libcutils/include -Isystem/core/libasyncio/include -Iframeworks/native/libs/adbd_auth/include"
flags="
  -O1 -w -fPIC -D_GNU_SOURCE -DADB_HOST=0 -DALLOW_ADBD_ROOT=0 -DALLOW_ADBD_NO_AUTH
  -DADB_VERSION=\"desk\" -DPLATFORM_TOOLS_VERSION=\"desk\""
libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/android

# shellcheck disable=SC2086 # the lists are meant to be split
printf '%s\n' $sources | xargs -P "${JOBS:-$(nproc)}" -I SOURCE \
  sh -c 'g++ -std=gnu++2a -include optional -include atomic -c "$1" -o "$(basename "$1" .cpp)-$(printf %s "$1" | cksum | cut -d" " -f1).o" $2' \
  build SOURCE "$flags $includes"
# shellcheck disable=SC2086
gcc -c system/core/libcrypto_utils/android_pubkey.c $flags $includes
# shellcheck disable=SC2086
g++ -o adbd ./*.o -L"$libraries" -Wl,-rpath="$libraries" -lbase -lcrypto -lcutils -llog -lcap -lresolv -lutil -lpthread
mv adbd "$out/adbd"
echo "$out/adbd is built"
