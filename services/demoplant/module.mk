# demoplant: a Modbus TCP server to play with; libmodbus is used here and nowhere else.
programs       += demoplant
demoplant.srcs := services/demoplant/main.c
demoplant.libs := -lmodbus
