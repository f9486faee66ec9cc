#!/usr/bin/env bash
# What every MQTT client may do here, done by mosquitto_pub and mosquitto_sub.
#
# mosquitto_client.sh --transport tcp|tls --port PORT [--ca FILE] --version 3.1.1|5 --passwords alice=…,bob=… [--only STEPS]
#
# Prints one line per step. The first one that fails ends it with status 1 and says why.
set -euo pipefail

patience=20
transport='' host=127.0.0.1 port='' ca='' version='' passwords='' only=''
while (($#)); do
  case $1 in
    --transport | --host | --port | --ca | --version | --passwords | --only) declare "${1#--}=$2"; shift 2 ;;
    *) echo "FAILED: what is $1?"; exit 2 ;;
  esac
done

common=(-h "$host" -p "$port")
[[ $transport == tls ]] && common+=(--cafile "$ca")
kept=(-c)
if [[ $version == 5 ]]; then
  common+=(-V mqttv5)
  kept+=(-x 3600)
else
  common+=(-V mqttv311)
fi
work=$(mktemp -d)
started=()
trap 'for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"' EXIT

fail() { echo "FAILED $step: $*"; exit 1; }
expect() { [[ $2 == "$3" ]] || fail "$1: «$2» instead of «$3»"; }
unique() { tr -d - </proc/sys/kernel/random/uuid; }
password() { local pair; for pair in ${passwords//,/ }; do [[ $pair == "$1="* ]] && echo "${pair#*=}"; done; }

# pub UID ARGUMENTS…
pub() {
  local uid=$1
  shift
  timeout "$patience" mosquitto_pub "${common[@]}" -u "$uid" -P "$(password "$uid")" "$@" 2>"$work/pub.err" ||
    fail "mosquitto_pub $*: $(cat "$work/pub.err")"
}

# sub NAME UID ARGUMENTS…: runs in the background, until it has what it waits for; ready when this returns.
sub() {
  local name=$1 uid=$2 tries=0
  shift 2
  : >"$work/$name"
  # -d tells of the SUBACK, among the messages; stdbuf becomes mosquitto_sub, under the same pid.
  stdbuf -oL mosquitto_sub "${common[@]}" -u "$uid" -P "$(password "$uid")" -d -W "$patience" \
    -F 'got %t|%q|%r|%p' "$@" >"$work/$name" 2>&1 &
  started+=($!)
  last=$!
  until grep -q '^Subscribed' "$work/$name"; do
    ((++tries < patience * 20)) || fail "no SUBACK for $*: $(cat "$work/$name")"
    sleep 0.05
  done
}

# ended NAME PID: waits until a `sub` has what it waited for; that is then in $got.
ended() {
  wait "$2" || fail "mosquitto_sub ended with $?: $(cat "$work/$1")"
  got=$(sed -n 's/^got //p' "$work/$1")
}

refused() {
  local out
  if out=$(timeout "$patience" mosquitto_pub "${common[@]}" -u alice -P wrong -q 1 -t dev/alice/x -m x 2>&1); then
    fail "let in with a wrong password"
  fi
  grep -qiE 'not authori[sz]ed|bad user ?name or password' <<<"$out" || fail "no good CONNACK: $out"
}

chat() {
  local text
  text="hello bob, $(unique)"
  sub bob bob -i chat -q 1 -t imj/bob/down -C 1
  pub alice -i chat -q 1 -t imj/alice/up -m "{\"clientMsgId\":\"$(unique)\",\"send\":{\"to\":{\"user\":\"bob\"},\"text\":\"$text\"}}"
  ended bob "$last"
  [[ $got == *"\"text\":\"$text\""* ]] || fail "bob got $got"
}

plain() {
  local topic qos out
  topic="dev/alice/$(unique)/state"
  sub lamp alice -i viewer -q 2 -t "$topic" -C 3
  for qos in 0 1 2; do pub alice -i lamp -q "$qos" -t "$topic" -m "at $qos"; done
  ended lamp "$last"
  expect "at QoS 0, 1 and 2" "$got" "$topic|0|0|at 0
$topic|1|0|at 1
$topic|2|0|at 2"
  out=$(timeout "$patience" mosquitto_sub "${common[@]}" -u alice -P "$(password alice)" -d -q 1 -t dev/bob/state -W 2 2>&1 || true)
  grep -qE 'denied|128|135' <<<"$out" || fail "a foreign device's topic: $out"
}

retained() {
  local base qos
  base="dev/alice/$(unique)"
  for qos in 0 1 2; do pub alice -i lamp -q "$qos" -r -t "$base/$qos" -m "kept at $qos"; done
  sub viewer alice -i viewer -q 2 -t "$base/+" -C 3
  ended viewer "$last"
  expect "retained" "$(sort <<<"$got")" "$base/0|0|1|kept at 0
$base/1|1|1|kept at 1
$base/2|2|1|kept at 2"
  for qos in 0 1 2; do pub alice -i lamp -q 1 -r -t "$base/$qos" -n; done
  sub late alice -i late -q 1 -t "$base/#" -C 1
  pub alice -i lamp -q 1 -t "$base/now" -m live
  ended late "$last"
  expect "after deleting" "$got" "$base/now|1|0|live"
}

wildcards() {
  local base topic topics=()
  base="dev/alice/$(unique)"
  topics=("$base" "$base/a" "$base/a/b/c" "$base/a//é")
  sub viewer alice -i viewer -q 1 -t "$base/#" -C 4
  for topic in "${topics[@]}"; do pub alice -i lamp -q 1 -t "$topic" -m x; done
  ended viewer "$last"
  expect "wildcard" "$got" "$(printf '%s|1|0|x\n' "${topics[@]}")"
}

# A session that is kept gets at QoS 1 and 2 what came while it was away.
away() {
  local topic
  topic="dev/alice/$(unique)"
  sub keeper alice -i keeper "${kept[@]}" -q 2 -t "$topic" -E
  wait "$last" || fail "mosquitto_sub -E: $(cat "$work/keeper")"
  pub alice -i lamp -q 1 -t "$topic" -m "at 1"
  pub alice -i lamp -q 2 -t "$topic" -m "at 2"
  sub keeper alice -i keeper "${kept[@]}" -q 2 -t "$topic" -C 2
  ended keeper "$last"
  expect "while it was away" "$got" "$topic|1|0|at 1
$topic|2|0|at 2"
  sub keeper alice -i keeper -q 1 -t "$topic" -E
  wait "$last" || fail "ending the session: $(cat "$work/keeper")"
}

will() {
  local topic viewer
  topic="dev/alice/$(unique)"
  sub viewer alice -i viewer -q 1 -t "$topic" -C 1
  viewer=$last
  sub mortal alice -i mortal -q 1 -t "$topic/none" --will-topic "$topic" --will-payload gone --will-qos 1
  kill -KILL "$last"
  ended viewer "$viewer"
  expect "the will" "$got" "$topic|1|0|gone"
}

for step in refused chat plain retained wildcards away will; do
  [[ -n $only && ",$only," != *",$step,"* ]] && continue
  begun=$SECONDS
  $step
  echo "ok $step ($((SECONDS - begun)) s)"
done
