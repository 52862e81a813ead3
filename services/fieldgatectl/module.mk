# fieldgatectl: the command-line client; no daemon.
programs          += fieldgatectl
fieldgatectl.core := $(addprefix services/fieldgatectl/,args.c body.c config.c http.c ops.c out.c peer.c \
                       reply.c request.c safe.c secret.c show.c sig.c sse.c trust.c ask.c watch.c)
fieldgatectl.srcs := $(fieldgatectl.core) $(addprefix services/fieldgatectl/,main.c audit.c call.c \
                       describe.c sign.c tags.c)
fieldgatectl.gen  := ctl_ops
fieldgatectl.libs := -lcurl -lssl -lcrypto
# Made by apigen.py with the words of these.
$(B)/gen/stamp: proto/apictl.py services/fieldgatectl/fieldgatectl.1.in services/fieldgatectl/fieldgatectl.bash.in

test_ctl_args.extra := services/fieldgatectl/args.c services/fieldgatectl/trust.c
test_ctl_args.libs  := -lssl -lcrypto
test_ctl_body.extra := $(addprefix services/fieldgatectl/,body.c ops.c sig.c)
test_ctl_body.gen   := ctl_ops
test_ctl_show.extra := $(addprefix services/fieldgatectl/,out.c safe.c show.c sig.c sse.c)
fuzz_sse.extra      := $(addprefix services/fieldgatectl/,safe.c sse.c)
