# modbusd: the Modbus master.
modbusd.engine := $(addprefix services/modbusd/,mb_pdu.c mb_value.c mb_conn.c mb_engine.c)
programs       += modbusd
modbusd.srcs   := $(modbusd.engine) $(addprefix services/modbusd/,main.c config.c op.c \
                  op_master.c op_devs.c op_mcmds.c op_tags.c op_control.c op_operate.c)
modbusd.gen    := api_modbusd
