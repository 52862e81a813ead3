# demoplant: a Modbus device to play with, over TCP or on a serial line; libmodbus is used here and nowhere else.
programs       += demoplant
demoplant.srcs := services/demoplant/main.c
demoplant.libs := -lmodbus
