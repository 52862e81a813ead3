# iod: the serial ports of the machine.
programs += iod
iod.srcs := $(addprefix services/iod/,main.c ports.c told.c op_serials.c line.c sys_bench.c sys_linux.c)
iod.gen  := api_iod

test_iod_sys.extra := services/iod/sys_linux.c
