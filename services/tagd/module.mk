# tagd: the tag hub.
programs  += tagd
tagd.srcs := $(addprefix services/tagd/,main.c line.c follow.c op_list.c op_monitor.c op_access.c)
tagd.gen  := api_tagd

# A provider without devices, for tests of what follows the tag bus.
benches            += fake_provider
fake_provider.srcs := tests/fakes/fake_provider.c
