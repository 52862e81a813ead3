# modbusd: the Modbus master.
modbusd.line   := mb_rtu.c mb_ascii.c mb_line.c
modbusd.engine := $(addprefix services/modbusd/,mb_pdu.c mb_value.c mb_conn.c mb_merge.c \
                  mb_engine.c mb_group.c mb_device.c mb_access.c mb_fault.c mb_health.c traffic.c \
                  $(modbusd.line))
programs       += modbusd
modbusd.ops    := $(addprefix services/modbusd/,config.c op.c op_master.c op_devs.c op_mcmds.c \
                  op_tags.c op_control.c op_operate.c op_ser.c ports.c \
                  op_params.c op_daemon.c op_clone.c op_traffic.c op_csv.c mb_csv.c sl_config.c \
                  sl_space.c op_sl_slave.c op_sl_zones.c op_sl_stage.c op_sl_auto.c op_sl_tags.c \
                  op_sl_control.c op_sl_ser.c events.c)
modbusd.srcs   := $(modbusd.engine) $(modbusd.ops) $(addprefix services/modbusd/,facts.c dev_metrics.c main.c)
modbusd.gen    := api_modbusd

modbusd.slave  := $(addprefix services/modbusd/,sl_engine.c sl_map.c sl_serve.c sl_tcp.c sl_line.c)
modbusd.srcs   += $(modbusd.slave) services/modbusd/sl_hub.c
benches          += slave_alone
slave_alone.srcs := tests/fakes/slave_alone.c $(modbusd.slave) \
                    $(addprefix services/modbusd/,mb_pdu.c mb_value.c mb_rtu.c mb_ascii.c traffic.c)
fuzz_mb_request.extra := services/modbusd/mb_pdu.c services/modbusd/mb_value.c \
                         services/modbusd/sl_map.c services/modbusd/sl_serve.c
test_sl_serve.extra := $(addprefix services/modbusd/,mb_pdu.c mb_value.c mb_rtu.c mb_ascii.c \
                                                     traffic.c) \
                       $(modbusd.slave)
test_sl_line.extra  := $(test_sl_serve.extra)

test_sl_space.extra  := services/modbusd/sl_space.c
test_mb_pdu.extra    := services/modbusd/mb_pdu.c
test_mb_value.extra  := services/modbusd/mb_value.c
test_mb_conn.extra   := $(addprefix services/modbusd/,mb_pdu.c mb_conn.c traffic.c)
test_traffic.extra   := $(addprefix services/modbusd/,mb_pdu.c traffic.c mb_rtu.c mb_ascii.c)
test_mb_merge.extra  := services/modbusd/mb_merge.c
test_mb_engine.extra := $(modbusd.engine)
test_mb_config.extra := $(modbusd.engine) $(modbusd.ops) $(modbusd.slave) \
                        services/modbusd/sl_hub.c
test_mb_config.gen   := api_modbusd
test_mb_serial.extra := $(addprefix services/modbusd/,mb_pdu.c mb_rtu.c mb_ascii.c)
test_mb_line.extra   := $(addprefix services/modbusd/,mb_pdu.c mb_conn.c traffic.c $(modbusd.line))
fuzz_mb_serial.extra := $(test_mb_serial.extra)
fuzz_mb_reply.extra  := services/modbusd/mb_pdu.c services/modbusd/mb_value.c
fuzz_api_body.extra  += $(modbusd.engine) $(modbusd.ops) $(modbusd.slave) services/modbusd/sl_hub.c
fuzz_api_body.gen    += api_modbusd
test_mb_shares.extra := $(modbusd.engine)
test_mb_fault.extra  := $(modbusd.engine)
test_mb_engine.libs  := -Wl,--wrap=clock_mono_us,--wrap=clock_wall_us
test_mb_fault.libs   := -Wl,--wrap=clock_mono_us,--wrap=clock_wall_us
test_mb_shares.libs  := -Wl,--wrap=clock_mono_us,--wrap=clock_wall_us
fuzz_mb_csv.extra    := $(modbusd.engine) $(modbusd.ops) $(modbusd.slave) services/modbusd/sl_hub.c
fuzz_mb_csv.gen      := api_modbusd
test_mb_group.extra  := $(modbusd.engine)
test_mb_group.libs   := -Wl,--wrap=clock_mono_us,--wrap=clock_wall_us
