#!/usr/bin/env bash
# Starts Apache Kafka as the official image does, from the same variables: KAFKA_NODE_ID=1 becomes node.id=1. The log
# directory is formatted once.
set -euo pipefail
config=/opt/kafka/config/server.properties
while IFS='=' read -r name value; do
  case $name in
    KAFKA_HEAP_OPTS) ;;
    KAFKA_*) name=${name#KAFKA_}; name=${name,,}; printf '%s=%s\n' "${name//_/.}" "$value" ;;
  esac
done < <(env) > "$config"
java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Djava.awt.headless=true \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
"${java[@]}" -Xmx128m kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c "$config"
# shellcheck disable=SC2086  # several options
exec "${java[@]}" $KAFKA_HEAP_OPTS kafka.Kafka "$config"
