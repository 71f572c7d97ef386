/* A load generator for websockets and pages: one thread, one epoll, as many connections as asked for.
 *
 *   load ADDRESS PORT [key=value ...]     then one command a line on stdin, one line of JSON for each on stdout
 *
 *   path=/ws            what to ask for
 *   header=NAME: VALUE  one more line of the request; may come more than once
 *   cookies=FILE        a Cookie line for each connection, in turn
 *   dialect=msgpack     MessagePack-RPC's arrays; or socketio (engine.io 4 on a websocket, acks), or http (GET, keep-alive)
 *   publisher=PORT      the first connection goes there instead: to another process of the same service
 *   pid=NUMBER          the server, whose CPU time is told
 *   progress=SECONDS    a line of progress that often while measuring
 *
 *   open N WINDOW               open N more connections, at most WINDOW of them at a time
 *   drop N                      reset the last N, as a cut cable does
 *   request HEX ID              the payload to send from now on; its 4 bytes at ID are stamped with a number (-1: none)
 *   closed DEPTH WARM SECONDS CALLERS TRIPS
 *                               the first CALLERS connections (0: all) keep DEPTH requests under way, and the others
 *                               rest; it takes as long as TRIPS times so many answers need, and WARM as long as one time
 *   paced RATE WARM SECONDS     RATE requests a second on a fixed schedule, answered or not; latency counts from the
 *                               time that a request was due
 *   paced RATE WARM SECONDS CALLERS EVERY
 *                               the same, asked by CALLERS connections from the second on, while the first one sends the
 *                               event that often (seconds): how long do calls take while many hear?
 *   event HEX ID                the payload of that event
 *   fanout BATCH WARM SECONDS   the first connection sends the request, BATCH times in one write, whenever all the
 *                               others have got BATCH events; whole batches are measured, at least one, and one that
 *                               takes as long as was asked for needs no warming up
 *
 * Between commands the connections are held and pings are answered. At the end of stdin it ends; SIGINT ends a
 * measurement early. Latencies are nanoseconds, counted as in an HDR histogram: 128 buckets an octave, within 0.8 %.
 * Each request that left, or was due, within the time is timed, whenever it is answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RING 1024 /* requests that one connection may have under way */
#define BUCKETS 7552
#define SECOND 1000000000u
#define HANDSHAKE_TIMEOUT (20ull * SECOND)
#define SETTLE (10ull * SECOND)   /* how long answers are waited for when a measurement is over */
#define PATIENCE (60ull * SECOND) /* the same for all of a batch of events */

typedef enum { NEW, CONNECTING, UPGRADING, GREETING, OPEN, GONE } State;
typedef enum { MSGPACK, SOCKETIO, HTTP } Dialect;
typedef enum { IDLE, CLOSED, PACED, FANOUT } Mode;

typedef struct {
    int fd, number;
    State state;
    unsigned char *rest; /* what came of a frame that is not complete */
    size_t rest_size;
    unsigned char *unsent; /* what the socket did not take yet */
    size_t unsent_size;
    uint64_t began;   /* its handshake */
    uint64_t *sent;   /* when each request under way was written, or due; 0: answered */
    unsigned first, next;
    uint64_t messages; /* in this measurement */
    uint64_t heard;    /* events of a fan-out, from its start on */
} Connection;

typedef struct {
    char what[24];
    uint64_t count;
} Count;

typedef struct {
    unsigned char frame[1 << 16];
    size_t size, payload_at;
    int id_at; /* -1: it has none */
} Request;

static struct sockaddr_storage address, publisher_address;
static socklen_t address_size;
static char host[128], path[1024] = "/", headers[4096];
static char **cookies;
static int cookie_count;
static Dialect dialect = MSGPACK;
static long server;
static double progress_every;

static int epoll;
static Connection **connections;
static int count, opening, open_now;
static volatile sig_atomic_t interrupted;

static Mode mode;
static int recording;
static uint64_t recording_since;
static uint64_t messages, under_way, unsent_requests, published, round_left, events;
static int batch;
static Count errors[64];
static uint64_t histogram[BUCKETS], lateness[BUCKETS];
static Request request, event;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void refuse(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

/* --- counting ------------------------------------------------------------------------------------------------- */

static void record(uint64_t *counts, uint64_t value) {
    int shift = value < 256 ? 0 : 56 - __builtin_clzll(value);
    counts[shift * 128 + (int)(value >> shift)]++;
}

/* The highest value of the bucket that so many of a hundred do not exceed. */
static uint64_t percentile(const uint64_t *counts, unsigned percent) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += counts[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += counts[i];
        int shift = i < 256 ? 0 : i / 128 - 1;
        if (total && seen * 100 >= total * percent) return ((uint64_t)(i - shift * 128 + 1) << shift) - 1;
    }
    return 0;
}

static void count_error(const char *what) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        if (!errors[i].count) snprintf(errors[i].what, sizeof errors[i].what, "%s", what);
        if (!strncmp(errors[i].what, what, sizeof errors[i].what - 1)) {
            errors[i].count++;
            return;
        }
    }
}

static void count_code(const char *kind, long code) {
    char what[24];
    snprintf(what, sizeof what, "%s %ld", kind, code);
    count_error(what);
}

static uint64_t server_cpu(void) {
    if (!server) return 0;
    char name[64];
    snprintf(name, sizeof name, "/proc/%ld/task", server);
    DIR *tasks = opendir(name);
    if (!tasks) fail("the server is gone");
    uint64_t total = 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.') continue; /* ".." is the process, and has a schedstat too */
        char file[400];
        unsigned long long used;
        snprintf(file, sizeof file, "%s/%s/schedstat", name, entry->d_name);
        FILE *stat = fopen(file, "r");
        if (!stat) continue;
        if (fscanf(stat, "%llu", &used) == 1) total += used;
        fclose(stat);
    }
    closedir(tasks);
    return total;
}

static uint64_t own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void print_counts(void) {
    printf("\"errors\": {");
    for (size_t i = 0; i < sizeof errors / sizeof *errors && errors[i].count; i++)
        printf("%s\"%s\": %llu", i ? ", " : "", errors[i].what, (unsigned long long)errors[i].count);
    printf("}, \"histogram\": [");
    for (int i = 0, some = 0; i < BUCKETS; i++)
        if (histogram[i]) {
            printf("%s[%d, %llu]", some ? ", " : "", i, (unsigned long long)histogram[i]);
            some = 1;
        }
    printf("]");
}

static void forget_answers(void) {
    messages = unsent_requests = events = 0;
    memset(histogram, 0, sizeof histogram);
    memset(lateness, 0, sizeof lateness);
    /* Who is lost stays lost. */
    size_t kept = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strncmp(errors[i].what, "error", 5) && strncmp(errors[i].what, "HTTP", 4)) errors[kept++] = errors[i];
    memset(errors + kept, 0, sizeof errors - kept * sizeof *errors);
    for (int i = 0; i < count; i++) connections[i]->messages = 0;
}

static void forget_all(void) {
    forget_answers();
    memset(errors, 0, sizeof errors);
}

/* --- one connection ------------------------------------------------------------------------------------------- */

static void watch(Connection *c, uint32_t what, int how) {
    struct epoll_event entry = {.events = what, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &entry) < 0) fail("epoll_ctl");
}

static void leave(Connection *c, const char *why) {
    if (c->state == GONE) return;
    if (c->state == OPEN) {
        open_now--;
    } else {
        opening--;
    }
    under_way -= c->next - c->first;
    c->first = c->next;
    if (mode == FANOUT) round_left -= c == connections[0] ? round_left : published - c->heard; /* nobody waits for it */
    c->state = GONE;
    count_error(why);
    close(c->fd);
}

static void put(Connection *c, const unsigned char *data, size_t size) {
    ssize_t done = 0;
    if (!c->unsent_size) {
        done = send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (done < 0) {
            if (errno != EAGAIN) {
                leave(c, "connection reset");
                return;
            }
            done = 0;
        }
        if ((size_t)done == size) return;
        watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    size_t more = size - (size_t)done;
    c->unsent = realloc(c->unsent, c->unsent_size + more);
    memcpy(c->unsent + c->unsent_size, data + done, more);
    c->unsent_size += more;
}

static void put_frame(Connection *c, int opcode, const void *payload, size_t size) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    unsigned char small[132] = {(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | size)};
    memcpy(small + 2, mask, 4);
    for (size_t i = 0; i < size && i < 125; i++) small[6 + i] = ((const unsigned char *)payload)[i] ^ mask[i & 3];
    put(c, small, 6 + size);
}

static size_t write_request_head(Connection *c, char *text, size_t size) {
    char cookie[4200] = "";
    if (cookie_count) snprintf(cookie, sizeof cookie, "Cookie: %s\r\n", cookies[c->number % cookie_count]);
    const char *upgrade = dialect == HTTP ? ""
                                          : "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    return (size_t)snprintf(text, size,
                            "GET %s HTTP/1.1\r\nHost: %s\r\n%s%s%s"
                            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
                            "Chrome/140.0.0.0\r\nAccept-Encoding: gzip, deflate, br\r\n"
                            "Accept-Language: en-US,en;q=0.9\r\nCache-Control: no-cache\r\n\r\n",
                            path, host, upgrade, headers, cookie);
}

/* Send `what`, `many` times in one write, as written (or due) at `when`. */
static void ask(Connection *c, const Request *what, int many, uint64_t when) {
    static unsigned char all[1 << 20];
    size_t size = 0;
    if (!c->sent) c->sent = calloc(RING, sizeof *c->sent);
    for (int i = 0; i < many; i++) {
        c->sent[c->next % RING] = when;
        if (dialect == HTTP) {
            size += write_request_head(c, (char *)all + size, sizeof all - size);
        } else {
            memcpy(all + size, what->frame, what->size);
            if (what->id_at >= 0) {
                /* At least 2**24, so that every MessagePack writer uses 5 bytes for it. */
                uint32_t id = 1u << 24 | (c->next & 0xffffff);
                unsigned char *at = all + size + what->payload_at + what->id_at, *mask = all + size + what->payload_at - 4;
                for (int b = 0; b < 4; b++) at[b] = (unsigned char)(id >> (24 - 8 * b)) ^ mask[(what->id_at + b) & 3];
            }
            size += what->size;
        }
        c->next++;
        under_way++;
        if (size > sizeof all - sizeof what->frame) {
            put(c, all, size);
            size = 0;
        }
    }
    if (size && c->state == OPEN) put(c, all, size);
}

static void answered(Connection *c, unsigned slot) {
    if (!c->sent || !c->sent[slot % RING]) return;
    if (recording && c->sent[slot % RING] >= recording_since) record(histogram, now_ns() - c->sent[slot % RING]);
    c->sent[slot % RING] = 0;
    while (c->first != c->next && !c->sent[c->first % RING]) {
        c->first++;
        under_way--;
    }
    c->messages++;
    messages++;
}

static void is_open(Connection *c) {
    c->state = OPEN;
    opening--;
    open_now++;
    record(histogram, now_ns() - c->began);
}

/* MessagePack, as far as error codes go. */
static long read_integer(const unsigned char *p, size_t size) {
    if (size < 3) return 0;
    if (p[0] < 0x80) return p[0];
    if (p[0] >= 0xe0) return (signed char)p[0];
    if (p[0] == 0xcc) return p[1];
    if (p[0] == 0xd0) return (signed char)p[1];
    if (p[0] == 0xcd) return p[1] << 8 | p[2];
    if (p[0] == 0xd1) return (int16_t)(p[1] << 8 | p[2]);
    return 0;
}

/* One whole frame; tells how many requests may follow. */
static int take_frame(Connection *c, int opcode, const unsigned char *payload, size_t size) {
    if (opcode == 8) {
        char why[24];
        snprintf(why, sizeof why, "closed %d", size < 2 ? 1005 : payload[0] << 8 | payload[1]);
        leave(c, why);
        return 0;
    }
    if (opcode == 9) {
        put_frame(c, 10, payload, size < 125 ? size : 125);
        return 0;
    }
    if (opcode == 10 || !size) return 0;
    int is_event, is_answer;
    if (dialect == SOCKETIO) {
        if (payload[0] == '2' && size == 1) put_frame(c, 1, "3", 1);
        if (payload[0] == '0' && c->state == GREETING) put_frame(c, 1, "40", 2);
        if (size > 1 && payload[0] == '4' && payload[1] == '0' && c->state == GREETING) is_open(c);
        is_event = size > 1 && payload[0] == '4' && payload[1] == '2';
        is_answer = size > 1 && payload[0] == '4' && payload[1] == '3';
    } else {
        is_event = size > 1 && (payload[0] == 0x93 || payload[0] == 0x94) && payload[1] == 2;
        is_answer = size > 7 && payload[0] == 0x94 && payload[1] <= 1; /* an echo server sends the request back */
    }
    if (is_event && recording) events++;
    if (is_event && mode == FANOUT) {
        if (c == connections[0]) return 0;
        if (recording) record(histogram, now_ns() - connections[0]->sent[0]);
        c->messages++;
        c->heard++;
        messages++;
        round_left--;
        return 0;
    }
    if (!is_answer) return 0;
    if (dialect == MSGPACK && payload[2] == 0xce) {
        if (payload[1] == 1 && payload[7] != 0xc0)
            count_code("error", payload[7] == 0x93 ? read_integer(payload + 8, size - 8) : 0);
        unsigned low = (unsigned)payload[4] << 16 | (unsigned)payload[5] << 8 | payload[6];
        answered(c, low);
    } else if (dialect == MSGPACK) {
        count_error("reply without our id");
        return 0;
    } else {
        answered(c, c->first); /* socket.io: one connection's acks come in order */
    }
    return 1;
}

/* How long a chunked body is, or more than `size` if it is not whole. */
static size_t chunks_size(const unsigned char *body, size_t size) {
    size_t at = 0;
    for (;;) {
        const unsigned char *end = memmem(body + at, size - at, "\r\n", 2);
        if (!end) return size + 1;
        size_t chunk = strtoul((const char *)body + at, NULL, 16);
        at = (size_t)(end - body) + 2 + chunk + 2;
        if (at > size) return size + 1;
        if (!chunk) return at;
    }
}

/* Take what is whole of `data`; tell how much that was. `*more` counts the answers. */
static size_t take(Connection *c, const unsigned char *data, size_t size, int *more) {
    size_t at = 0;
    while (c->state != GONE && at < size) {
        const unsigned char *p = data + at;
        size_t left = size - at;
        if (c->state == UPGRADING || dialect == HTTP) {
            const unsigned char *end = memmem(p, left, "\r\n\r\n", 4);
            if (!end) break;
            size_t head = (size_t)(end - p) + 4, body = 0;
            int chunked = 0;
            long status = left > 12 ? strtol((const char *)p + 9, NULL, 10) : 0;
            for (const unsigned char *line = p; line < end; line = (unsigned char *)memmem(line, left, "\r\n", 2) + 2) {
                if (!strncasecmp((const char *)line, "content-length:", 15)) body = strtoul((const char *)line + 15, NULL, 10);
                if (!strncasecmp((const char *)line, "transfer-encoding: chunked", 26)) chunked = 1;
            }
            if (chunked) body = chunks_size(p + head, left - head);
            if (left < head + body) break;
            at += head + body;
            if (dialect == HTTP) {
                if (status < 200 || status > 299) count_code("HTTP", status);
                answered(c, c->first);
                ++*more;
            } else if (status != 101) {
                char why[24];
                snprintf(why, sizeof why, "refused: HTTP %ld", status);
                leave(c, why);
            } else if (dialect == SOCKETIO) {
                c->state = GREETING;
            } else {
                is_open(c);
            }
            continue;
        }
        if (left < 2) break;
        uint64_t length = p[1] & 127;
        size_t head = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (left < head) break;
        if (head > 2) {
            length = 0;
            for (size_t i = 2; i < head; i++) length = length << 8 | p[i];
        }
        if (left < head + length) break;
        at += head + length;
        *more += take_frame(c, p[0] & 15, p + head, length);
    }
    return at;
}

static void on_readable(Connection *c) {
    static unsigned char data[1 << 21];
    memcpy(data, c->rest, c->rest_size);
    ssize_t got = recv(c->fd, data + c->rest_size, sizeof data - c->rest_size, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        leave(c, "connection lost");
        return;
    }
    size_t size = c->rest_size + (size_t)got;
    int more = 0;
    size_t done = take(c, data, size, &more);
    if (size == sizeof data && !done) refuse("a message of 2 MiB: more than this program reads");
    if (c->state != GONE) {
        if (size - done != c->rest_size) {
            free(c->rest);
            c->rest = size - done ? malloc(size - done) : NULL;
            c->rest_size = size - done;
        }
        if (c->rest_size) memcpy(c->rest, data + done, c->rest_size);
    }
    if (more && mode == CLOSED && c->state == OPEN) ask(c, &request, more, now_ns());
}

static void on_writable(Connection *c) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            leave(c, error == ECONNREFUSED ? "connection refused" : strerror(error));
            return;
        }
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        if (dialect == HTTP) {
            is_open(c);
        } else {
            static char text[1 << 14];
            c->state = UPGRADING;
            put(c, (unsigned char *)text, write_request_head(c, text, sizeof text));
        }
        return;
    }
    size_t size = c->unsent_size;
    ssize_t done = send(c->fd, c->unsent, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0) {
        if (errno != EAGAIN) leave(c, "connection reset");
        return;
    }
    memmove(c->unsent, c->unsent + done, size - (size_t)done);
    c->unsent_size -= (size_t)done;
    if (!c->unsent_size) watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

static void begin(Connection *c) {
    c->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    c->began = now_ns();
    opening++;
    struct sockaddr_storage *to = !c->number && publisher_address.ss_family ? &publisher_address : &address;
    if (connect(c->fd, (struct sockaddr *)to, address_size) < 0 && errno != EINPROGRESS) fail("connect");
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

/* Handle what is there, waiting at most `wait` milliseconds for it; tell whether stdin has something. */
static int turn(int wait) {
    struct epoll_event some[256];
    /* On a schedule few at a time: the next request may be due already. */
    int command = 0, ready = epoll_wait(epoll, some, mode == PACED ? 32 : 256, wait);
    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < ready; i++) {
        Connection *c = some[i].data.ptr;
        if (!c) {
            command = 1;
            continue;
        }
        if (c->state != GONE && some[i].events & EPOLLOUT) on_writable(c);
        if (c->state != GONE && c->state != CONNECTING && some[i].events & ~(uint32_t)EPOLLOUT) on_readable(c);
    }
    return command;
}

/* --- commands ------------------------------------------------------------------------------------------------- */

static void allow_files(rlim_t many) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (many <= files.rlim_cur) return;
    files.rlim_cur = many;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0) refuse("more connections than files may be open: see ulimit -n");
}

static void do_open(int many, int window) {
    forget_all();
    /* The dead make room. */
    int alive = 0;
    for (int i = 0; i < count; i++)
        if (connections[i]->state != GONE) {
            connections[alive++] = connections[i];
        } else {
            free(connections[i]->rest);
            free(connections[i]->unsent);
            free(connections[i]->sent);
            free(connections[i]);
        }
    count = alive;
    allow_files((rlim_t)(count + many) + 100);
    connections = realloc(connections, (size_t)(count + many) * sizeof *connections);
    for (int i = 0; i < many; i++) {
        Connection *c = connections[count + i] = calloc(1, sizeof *c);
        c->number = count + i;
        c->state = NEW;
    }
    int next = count, before_open = open_now;
    count += many;
    uint64_t cpu = server_cpu(), own = own_cpu(), start = now_ns(), last = start;
    int progress = open_now;
    while (next < count || opening) {
        while (next < count && opening < window) begin(connections[next++]);
        turn(100);
        uint64_t now = now_ns();
        if (open_now != progress) {
            progress = open_now;
            last = now;
        }
        if (interrupted || now - last > HANDSHAKE_TIMEOUT) break;
    }
    uint64_t end = now_ns();
    cpu = server_cpu() - cpu;
    own = own_cpu() - own;
    for (int i = 0; i < count; i++)
        if (connections[i]->state != OPEN) {
            if (connections[i]->state == NEW) opening++;
            if (connections[i]->state != NEW) leave(connections[i], "no handshake in time");
            if (connections[i]->state == NEW) {
                opening--;
                connections[i]->state = GONE;
                count_error("not begun");
            }
        }
    printf("{\"opened\": %d, \"seconds\": %.6f, \"cpu\": %.6f, \"own\": %.6f, ", open_now - before_open,
           (double)(end - start) / SECOND, (double)cpu / SECOND, (double)own / SECOND);
    print_counts();
    printf("}\n");
}

static void do_drop(int many) {
    int dropped = 0;
    for (int i = count - 1; i >= 0 && dropped < many; i--) {
        Connection *c = connections[i];
        if (c->state != OPEN) continue;
        struct linger linger = {1, 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        leave(c, "dropped");
        dropped++;
    }
    printf("{\"dropped\": %d}\n", dropped);
}

static void do_request(Request *r, const char *hex, int id) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t length = strlen(hex) / 2;
    if (length > sizeof r->frame - 8) refuse("a request of more than 65528 bytes");
    r->payload_at = length < 126 ? 6 : 8;
    r->size = r->payload_at + length;
    r->frame[0] = dialect == SOCKETIO ? 0x81 : 0x82;
    r->frame[1] = (unsigned char)(0x80 | (length < 126 ? length : 126));
    if (length >= 126) {
        r->frame[2] = (unsigned char)(length >> 8);
        r->frame[3] = (unsigned char)length;
    }
    memcpy(r->frame + r->payload_at - 4, mask, 4);
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) refuse("the request is not in hexadecimal");
        r->frame[r->payload_at + i] = (unsigned char)byte ^ mask[i & 3];
    }
    r->id_at = id;
    printf("{\"request\": %zu}\n", length);
}

/* The first connection sends it, and waits for no answer. */
static void publish(const Request *what, int many) {
    Connection *c = connections[0];
    uint64_t before = under_way;
    round_left = (uint64_t)(open_now - 1) * (uint64_t)many;
    published += (uint64_t)many;
    c->first = c->next = 0;
    ask(c, what, many, now_ns());
    c->first = c->next = 0;
    under_way = before;
}

static void print_progress(uint64_t since, uint64_t now) {
    uint64_t failed = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) failed += errors[i].count;
    printf("{\"progress\": %.3f, \"messages\": %llu, \"failed\": %llu, \"open\": %d, \"p50\": %llu, \"p99\": %llu}\n",
           (double)(now - since) / SECOND, (unsigned long long)messages, (unsigned long long)failed, open_now,
           (unsigned long long)percentile(histogram, 50), (unsigned long long)percentile(histogram, 99));
    fflush(stdout);
}

static void do_measure(Mode which, double amount, double warm, double seconds, int callers, int trips, double every) {
    int has_publisher = which == FANOUT || (which == PACED && callers);
    if (open_now < 1 + has_publisher) refuse("no connections are open");
    if (has_publisher && connections[0]->state != OPEN) refuse("the publisher's connection is lost");
    if ((!request.size && dialect != HTTP) || (which == PACED && callers && !event.size)) refuse("no request was given");
    if (callers + has_publisher > count) refuse("not so many connections were opened");
    if (amount < 1 || (which != PACED && amount > RING / 2) || (dialect == HTTP && which == CLOSED && amount > 1))
        refuse("not a depth, rate or batch to measure with");
    forget_all();
    mode = which;
    recording = 0;
    under_way = 0;
    batch = (int)amount;
    published = 0;
    for (int i = 0; i < count; i++) {
        connections[i]->first = connections[i]->next = 0;
        connections[i]->heard = 0;
        if (connections[i]->sent) memset(connections[i]->sent, 0, RING * sizeof *connections[i]->sent);
    }
    uint64_t begin = now_ns(), warm_at = begin + (uint64_t)(warm * SECOND), start = warm_at, end = 0;
    uint64_t cpu = 0, own = 0, turns = 0, publishes = 0, told = 0;
    double gap = SECOND / amount;
    int robin = 0, is_warm = mode != FANOUT, is_due = mode == FANOUT;
    if (mode == CLOSED)
        for (int i = 0; i < (callers ? callers : count); i++)
            if (connections[i]->state == OPEN) ask(connections[i], &request, batch, now_ns());
    const uint64_t trip = trips ? under_way : 0;
    for (;;) {
        uint64_t now = now_ns();
        int is_over = interrupted || !open_now;
        if (mode == FANOUT && !round_left) { /* between two batches */
            if (connections[0]->state != OPEN || open_now < 2) break;
            if (recording && now >= end && now >= warm_at) break;
            if (!is_warm) {
                is_warm = now >= warm_at;
                recording = 0; /* that was to warm up */
            }
            is_due = 1;
        }
        if (!recording && (mode == FANOUT || (now >= warm_at && (messages >= trip || now >= warm_at + SETTLE)))) {
            forget_answers();
            recording = 1;
            cpu = server_cpu();
            own = own_cpu();
            start = told = recording_since = now_ns();
            end = start + (uint64_t)(seconds * SECOND);
        }
        if (is_due) {
            publish(&request, batch);
            is_due = 0;
        }
        /* On a busy machine the time may be over before an answer, or before the kernel has looked at the server's clock:
         * it does that every few milliseconds. */
        if (mode != FANOUT && recording && now >= end && messages >= (uint64_t)trips * trip)
            is_over |= messages && (!server || server_cpu() > cpu);
        if (mode != FANOUT && recording && now >= end + SETTLE) is_over = 1;
        if (mode == FANOUT && now >= end + PATIENCE) {
            count_error("events missing");
            is_over = 1;
        }
        if (recording && progress_every > 0 && now - told >= progress_every * SECOND) {
            told = now;
            print_progress(start, now);
        }
        int wait = 50;
        if (mode == PACED) {
            uint64_t due;
            while ((due = begin + (uint64_t)((double)turns * gap)) <= now && open_now && !(recording && due >= end)) {
                turns++;
                Connection *c;
                if (recording) record(lateness, now_ns() - due);
                if (callers) {
                    c = connections[robin = 1 + robin % callers];
                    if (c->state != OPEN) continue; /* one of few; it was counted when it was lost */
                } else {
                    do {
                        robin = (robin + 1) % count;
                        c = connections[robin];
                    } while (c->state != OPEN);
                }
                if (c->next - c->first >= RING || (dialect == HTTP && c->next != c->first)) {
                    unsent_requests++;
                } else {
                    ask(c, &request, 1, due);
                }
            }
            if (callers && connections[0]->state == OPEN && begin + (uint64_t)((double)publishes * every * SECOND) <= now) {
                publishes++;
                publish(&event, 1);
            }
            wait = due > now + 2000000 ? (int)((due - now) / 1000000) - 1 : 0;
            if (wait > 50) wait = 50;
        }
        if (is_over) break;
        turn(wait);
    }
    uint64_t stop = now_ns(), done = messages, heard = events;
    cpu = server_cpu() - cpu;
    own = own_cpu() - own;
    if (!recording) {
        start = stop;
        done = 0;
    }
    uint64_t fewest = UINT64_MAX, most = 0;
    for (int i = which == FANOUT ? 1 : 0; i < (which == CLOSED && callers ? callers : count); i++) {
        if (connections[i]->state != OPEN) continue;
        if (connections[i]->messages < fewest) fewest = connections[i]->messages;
        if (connections[i]->messages > most) most = connections[i]->messages;
    }
    /* What is under way comes home, and is timed: else the slowest were left out. */
    if (mode == CLOSED) mode = IDLE;
    if (mode == FANOUT) recording = 0;
    while ((mode == FANOUT ? round_left : under_way) && open_now && now_ns() - stop < SETTLE) turn(10);
    uint64_t unanswered = under_way;
    mode = IDLE;
    recording = 0;
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"cpu\": %.6f, \"own\": %.6f, \"fewest\": %llu, \"most\": %llu, "
           "\"unsent\": %llu, \"unanswered\": %llu, \"open\": %d, \"events\": %llu, \"late\": %llu, ",
           (unsigned long long)done, (double)(stop - start) / SECOND, (double)cpu / SECOND, (double)own / SECOND,
           (unsigned long long)(fewest == UINT64_MAX ? 0 : fewest), (unsigned long long)most,
           (unsigned long long)unsent_requests, (unsigned long long)unanswered, open_now, (unsigned long long)heard,
           (unsigned long long)percentile(lateness, 99));
    print_counts();
    printf("}\n");
}

static void do_command(char *line) {
    char hex[140000];
    int a, b;
    double x, warm, seconds, every;
    if (sscanf(line, "open %d %d", &a, &b) == 2 && a > 0 && b > 0) {
        do_open(a, b);
    } else if (sscanf(line, "drop %d", &a) == 1) {
        do_drop(a);
    } else if (sscanf(line, "request %139999s %d", hex, &a) == 2) {
        do_request(&request, hex, a);
    } else if (sscanf(line, "event %139999s %d", hex, &a) == 2) {
        do_request(&event, hex, a);
    } else if (sscanf(line, "closed %lf %lf %lf %d %d", &x, &warm, &seconds, &a, &b) == 5 && a >= 0 && b >= 0) {
        do_measure(CLOSED, x, warm, seconds, a, b, 0);
    } else if (sscanf(line, "paced %lf %lf %lf %d %lf", &x, &warm, &seconds, &a, &every) == 5 && a > 0) {
        do_measure(PACED, x, warm, seconds, a, 0, every);
    } else if (sscanf(line, "paced %lf %lf %lf", &x, &warm, &seconds) == 3) {
        do_measure(PACED, x, warm, seconds, 0, 0, 0);
    } else if (sscanf(line, "fanout %lf %lf %lf", &x, &warm, &seconds) == 3) {
        do_measure(FANOUT, x, warm, seconds, 0, 0, 0);
    } else {
        refuse("no such command");
    }
    fflush(stdout);
}

static void read_cookies(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file) fail(name);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t size; (size = getline(&line, &room, file)) > 1;) {
        cookies = realloc(cookies, (size_t)(cookie_count + 1) * sizeof *cookies);
        cookies[cookie_count++] = strndup(line, (size_t)size - (line[size - 1] == '\n'));
    }
    free(line);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 3) refuse("usage: load ADDRESS PORT [key=value ...], then commands on stdin; see the top of load.c");
    int port = atoi(argv[2]);
    struct sockaddr_in *four = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
    if (inet_pton(AF_INET, argv[1], &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        address_size = sizeof *four;
        snprintf(host, sizeof host, "%s:%d", argv[1], port);
    } else if (inet_pton(AF_INET6, argv[1], &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        address_size = sizeof *six;
        snprintf(host, sizeof host, "[%s]:%d", argv[1], port);
    } else {
        refuse("not a numeric address");
    }
    for (int i = 3; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) refuse("an argument is not key=value");
        *value++ = 0;
        if (!strcmp(argv[i], "path")) {
            snprintf(path, sizeof path, "%s", value);
        } else if (!strcmp(argv[i], "host")) {
            snprintf(host, sizeof host, "%s", value);
        } else if (!strcmp(argv[i], "header")) {
            size_t have = strlen(headers);
            snprintf(headers + have, sizeof headers - have, "%s\r\n", value);
        } else if (!strcmp(argv[i], "cookies")) {
            read_cookies(value);
        } else if (!strcmp(argv[i], "publisher")) {
            publisher_address = address;
            /* The port stands at the same place for both families. */
            ((struct sockaddr_in *)&publisher_address)->sin_port = htons((uint16_t)atoi(value));
        } else if (!strcmp(argv[i], "pid")) {
            server = atol(value);
        } else if (!strcmp(argv[i], "progress")) {
            progress_every = atof(value);
        } else if (!strcmp(argv[i], "dialect")) {
            if (!strcmp(value, "socketio")) dialect = SOCKETIO;
            else if (!strcmp(value, "http")) dialect = HTTP;
            else if (strcmp(value, "msgpack")) refuse("no such dialect");
        } else {
            refuse("an unknown key");
        }
    }
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    epoll = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    static char line[160000];
    size_t have = 0;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input) < 0) fail("stdin");
    for (;;) {
        char *end;
        while ((end = memchr(line, '\n', have))) {
            *end = 0;
            /* While a command runs, the next ones wait in the pipe. */
            epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
            do_command(line);
            epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
            have -= (size_t)(end + 1 - line);
            memmove(line, end + 1, have);
        }
        if (!turn(-1)) continue;
        ssize_t size = read(0, line + have, sizeof line - have);
        if (size <= 0) return 0;
        have += (size_t)size;
    }
}
