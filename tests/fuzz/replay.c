/*
 * main() for a fuzz target without libFuzzer: runs it over every file of the
 * directories named, so that what was found once is tried by each check.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay_file(const char *name)
{
    FILE *f = fopen(name, "rbe");
    if (f == NULL)
        return -1;
    (void)fseek(f, 0, SEEK_END);
    long size = ftell(f);
    if (size < 0) { /* a directory entry that is no file */
        fclose(f);
        return 0;
    }
    rewind(f);
    uint8_t *data = malloc((size_t)size + 1);
    int done = 0;
    if (data != NULL && fread(data, 1, (size_t)size, f) == (size_t)size) {
        (void)LLVMFuzzerTestOneInput(data, (size_t)size);
        done = 1;
    }
    free(data);
    fclose(f);
    return done;
}

int
main(int argc, char **argv)
{
    int n = 0;
    (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (dir == NULL) {
            (void)fprintf(stderr, "no corpus %s\n", argv[i]);
            continue;
        }
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            if (e->d_name[0] == '.')
                continue;
            char name[4096];
            (void)snprintf(name, sizeof(name), "%s/%s", argv[i], e->d_name);
            int r = replay_file(name);
            if (r < 0)
                return 1;
            n += r;
        }
        closedir(dir);
    }
    printf("%d inputs\n", n);
    return 0;
}
