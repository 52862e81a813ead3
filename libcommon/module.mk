libcommon.srcs := $(sort $(wildcard libcommon/*.c))
