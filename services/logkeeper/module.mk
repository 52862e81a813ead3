# logkeeper: the one thing about the system log that needs root.
programs       += logkeeper
logkeeper.srcs := services/logkeeper/main.c
