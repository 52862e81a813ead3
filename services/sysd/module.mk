programs  += sysd
sysd.srcs := $(addprefix services/sysd/,main.c front.c op_httpserver.c wanted.c)
sysd.gen  := api_sysd
