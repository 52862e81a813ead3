/*
 * The TCP server of a slave: a listener and its clients, non-blocking on the
 * loop. Modbus Messaging on TCP/IP Implementation Guide V1.0b.
 *
 * A client's requests are answered in the order in which they came, one at a
 * time; what it sends meanwhile waits, at last in its own socket. Its answers
 * wait for it likewise: nothing more is read from a client that does not take
 * them, and after SL_STALL_S it is cut off, as is one that leaves a frame
 * unfinished for that long and one that sends what is no Modbus. Silence
 * between frames is no fault: TCP keep-alive finds the dead.
 *
 * With SL_CONNS_MAX clients, a new one takes the place of "the oldest unused
 * connection" (4.2.1.2 of the guide), by which it leaves open what unused is. Here: of those
 * that never asked anything the oldest, else of those with nothing under way the one that
 * asked longest ago; the new one is refused when there is none. All are in the guide's
 * non-priority pool (4.2.1.1): there are no marked clients that are never closed.
 *
 * Unit ids: the slave's own, and 255 and 0, by which clients address a server that is on
 * the network itself (4.4.1.2). Requests to others are dropped without an answer and counted.
 *
 * The guide advises against several answers in one segment (4.2.1.1, rule 6); requests that
 * came together are answered together all the same, since TCP keeps no bounds of segments.
 */
#ifndef FIELDGATE_SL_TCP_H
#define FIELDGATE_SL_TCP_H

#include "services/modbusd/sl_map.h"
#include "services/modbusd/traffic.h"

enum { SL_STALL_S = 10 };

struct sl_tcp;

/* Closed, without clients. 0 or -ENOMEM. */
int sl_tcp_new(struct loop *loop, struct sl_tcp **ret_tcp);
/* Takes NULL. */
void sl_tcp_free(struct sl_tcp *t);

/* A listening socket for all IPv6 and IPv4 addresses; *ret_fd, or -errno. */
int sl_tcp_listen(uint16_t port, int *ret_fd);
/*
 * From now on accepts from 'fd' (owned; -1: from none) instead; clients of
 * the socket before are disconnected. 0 or -errno: then nothing changed and fd is closed.
 */
int sl_tcp_serve(struct sl_tcp *t, int fd);
/* The port that it listens on; 0: none. */
uint16_t sl_tcp_port(const struct sl_tcp *t);
/* What clients ask from now on; 'keep_alive_s' holds for those that are there too. */
void sl_tcp_set(struct sl_tcp *t, struct sl_map *map, uint8_t unit, unsigned keep_alive_s);

/* Keeps what is on the wire there, when it is on; outlives the server. NULL: nowhere. */
void sl_tcp_set_traffic(struct sl_tcp *t, struct traffic *traffic);

/* Fills n_conns, all, accepted, refused, cut. */
void sl_tcp_get_stats(const struct sl_tcp *t, struct sl_stats *ret_stats);
bool sl_tcp_conn_stats(const struct sl_tcp *t, size_t at, struct sl_conn_stats *ret_stats);

#endif
