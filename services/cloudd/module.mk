# cloudd: MQTT publishing.
programs    += cloudd
cloudd.srcs := $(addprefix services/cloudd/,main.c op_mqtt.c op_messages.c op_forward.c client.c \
                 policy.c group.c facts.c payload.c forward.c mqtt_conn.c cert.c cert_told.c sys_linux.c)
cloudd.gen  := api_cloudd
cloudd.libs := -lpaho-mqtt3as -lcrypto

test_payload.extra       := services/cloudd/payload.c
test_group.extra         := services/cloudd/group.c services/cloudd/payload.c
test_forward_store.extra := services/cloudd/forward.c
test_cloudd_sys.extra    := services/cloudd/sys_linux.c
