/*
 * sysd: see sysd.h.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/log.h"
#include "services/sysd/sysd.h"

#include "libcommon/banned.h"

static int
sysd_start(void *self, struct svc *svc)
{
    struct sysd *d = self;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    d->svc = svc;
    int r = store_read(svc->store, &txn);
    if (r == 0)
        r = wanted_load(txn, &d->wanted);
    if (r == 0)
        r = front_start(d);
    if (r < 0)
        log_err("sysd: cannot start error=%s", strerror(-r));
    return r;
}

static void
sysd_stop(void *self, struct svc *svc)
{
    (void)svc;
    front_stop(self);
}

int
main(int argc, char **argv)
{
    static const struct svc_info info = {
        .name = "sysd",
        .ops = sysd_ops,
        .n_ops = &sysd_n_ops,
        .dbs = sysd_dbs,
        .n_dbs = SYSD_N_DBS,
        .schema = 1,
        .start = sysd_start,
        .stop = sysd_stop,
    };
    static struct sysd sysd;
    return svc_main(&info, &sysd, argc, argv);
}
