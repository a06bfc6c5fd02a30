// SPDX-License-Identifier: MIT OR GPL-2.0
/* Parameters: named and meant like memcached's flags. Anything impossible is refused, with what would be possible. */
#include <linux/cpumask.h>
#include <linux/inet.h>
#include <linux/module.h>
#include <linux/string.h>
#include "shim.h"

static unsigned int port = 11211;
module_param(port, uint, 0444);
MODULE_PARM_DESC(port, "port for TCP and UDP (default 11211)");
static char *address = "";
module_param(address, charp, 0444);
MODULE_PARM_DESC(address, "the one address to listen on (default: all)");
static bool tcp = true;
module_param(tcp, bool, 0444);
MODULE_PARM_DESC(tcp, "serve TCP (default on)");
static bool udp = true;
module_param(udp, bool, 0444);
MODULE_PARM_DESC(udp, "serve UDP (default on)");
static unsigned int memory_mb = 64;
module_param(memory_mb, uint, 0444);
MODULE_PARM_DESC(memory_mb, "all memory for items and index, taken at once, MiB (default 64)");
static unsigned long item_size_max = 1 << 20;
module_param(item_size_max, ulong, 0444);
MODULE_PARM_DESC(item_size_max, "largest item, bytes (default 1048576)");
static unsigned int workers;
module_param(workers, uint, 0444);
MODULE_PARM_DESC(workers, "threads that serve TCP (default 4, or the processors if fewer)");
static unsigned int udp_workers;
module_param(udp_workers, uint, 0444);
MODULE_PARM_DESC(udp_workers, "threads that serve UDP; 0: where packets are received (default)");
static char *routing = "round-robin";
module_param(routing, charp, 0444);
MODULE_PARM_DESC(routing, "which UDP thread gets a request: round-robin (default) or key");
static char *udp_allow = "";
module_param(udp_allow, charp, 0444);
MODULE_PARM_DESC(udp_allow, "who is served over UDP without a limit: ranges like 10.0.0.0/8, or any (default: private ranges)");
static unsigned int connections = 1024;
module_param(connections, uint, 0444);
MODULE_PARM_DESC(connections, "most TCP connections at a time (default 1024)");
static unsigned int idle_timeout;
module_param(idle_timeout, uint, 0444);
MODULE_PARM_DESC(idle_timeout, "seconds after which an idle connection is closed; 0: never (default)");
static unsigned int requests_per_turn = 20;
module_param(requests_per_turn, uint, 0444);
MODULE_PARM_DESC(requests_per_turn, "requests of one connection before others get their turn (default 20)");
static unsigned int chunk_size = 48;
module_param(chunk_size, uint, 0444);
MODULE_PARM_DESC(chunk_size, "least bytes of a size class in statistics (default 48)");
static unsigned int growth_percent = 125;
module_param(growth_percent, uint, 0444);
MODULE_PARM_DESC(growth_percent, "growth of size classes in statistics, hundredths (default 125)");
static char *protocol = "auto";
module_param(protocol, charp, 0444);
MODULE_PARM_DESC(protocol, "what clients speak: auto (default), ascii or binary");
static bool evict = true;
module_param(evict, bool, 0444);
MODULE_PARM_DESC(evict, "make room by evicting; off: a full store refuses (default on)");
static bool cas = true;
module_param(cas, bool, 0444);
MODULE_PARM_DESC(cas, "items have CAS values (default on)");
static bool flush = true;
module_param(flush, bool, 0444);
MODULE_PARM_DESC(flush, "flush_all is allowed (default on)");
static bool debug_time;
module_param(debug_time, bool, 0444);
MODULE_PARM_DESC(debug_time, "for tests: clients may move the clock with debugtime (default off)");

#define WORKERS_MAX 256u
#define WORKERS_DEFAULT 4u
#define CONNECTIONS_MAX (1u << 20)
#define MEMORY_MB_MAX (1u << 20)

static int refuse(const char *name, unsigned long value, const char *wanted)
{
	pr_err("%s=%lu is not possible: %s\n", name, value, wanted);
	return -EINVAL;
}

/* Where `word` is in `words`, or -1. */
static int find(const char *name, const char *word, const char *const words[], int count, const char *wanted)
{
	int at;

	for (at = 0; at < count; at++)
		if (!strcmp(word, words[at]))
			return at;
	pr_err("%s=%s is not known: expected %s\n", name, word, wanted);
	return -1;
}

static const char *const routings[] = { "round-robin", "key" };
/* In the order of enum unbuckle_protocol. */
static const char *const protocols[] = { "auto", "ascii", "binary" };
#define find_in(words, name, word, wanted) find(name, word, words, ARRAY_SIZE(words), wanted)

/* Ranges that only hosts nearby have. */
static const char near[] = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,::1/128,fc00::/7,fe80::/10";

/* One range: an address, with or without the length of its prefix. */
static bool read_range(const char *text, size_t len, struct unbuckle_range *to)
{
	const char *slash = memchr(text, '/', len);
	size_t address_len = slash ? slash - text : len;
	unsigned int prefix_len, mapped = 0;
	char digits[4] = "";

	if (in4_pton(text, address_len, to->address + 12, -1, NULL)) {
		memset(to->address, 0, 10);
		memset(to->address + 10, 0xff, 2);
		mapped = 96;
	} else if (!in6_pton(text, address_len, to->address, -1, NULL)) {
		return false;
	}
	if (slash) {
		size_t digits_len = len - address_len - 1;

		if (digits_len == 0 || digits_len >= sizeof(digits))
			return false;
		memcpy(digits, slash + 1, digits_len);
		if (kstrtouint(digits, 10, &prefix_len) || prefix_len + mapped > 128)
			return false;
		to->prefix_len = prefix_len + mapped;
	} else {
		to->prefix_len = 128;
	}
	return true;
}

static int read_ranges(const char *text, struct unbuckle_settings *to)
{
	if (!strcmp(text, "any")) {
		to->udp_allowed[0] = (struct unbuckle_range){};
		to->udp_allowed_count = 1;
		return 0;
	}
	while (*text) {
		size_t len = strcspn(text, ",");

		if (to->udp_allowed_count == UNBUCKLE_RANGES_MAX ||
		    !read_range(text, len, &to->udp_allowed[to->udp_allowed_count])) {
			pr_err("udp_allow: %.*s is not possible: expected any, or at most %d ranges like 10.0.0.0/8\n",
			       (int)len, text, UNBUCKLE_RANGES_MAX);
			return -EINVAL;
		}
		to->udp_allowed_count++;
		text += len;
		text += *text == ',';
	}
	return 0;
}

static int check(void)
{
	if (!tcp && !udp) {
		pr_err("tcp=0 with udp=0 leaves nothing to serve\n");
		return -EINVAL;
	}
	if (port == 0 || port > 65535)
		return refuse("port", port, "expected 1 to 65535");
	if (memory_mb == 0 || memory_mb > MEMORY_MB_MAX)
		return refuse("memory_mb", memory_mb, "expected 1 to 1048576");
	if (item_size_max < 1024 || item_size_max > 1ul << 30 || item_size_max > ((u64)memory_mb << 20) / 2)
		return refuse("item_size_max", item_size_max, "expected 1024 to 1 GiB, and at most half of memory_mb");
	if (workers > WORKERS_MAX)
		return refuse("workers", workers, "expected at most 256");
	if (udp_workers > WORKERS_MAX)
		return refuse("udp_workers", udp_workers, "expected at most 256");
	if (find_in(routings, "routing", routing, "round-robin or key") < 0 ||
	    find_in(protocols, "protocol", protocol, "auto, ascii or binary") < 0)
		return -EINVAL;
	if (connections == 0 || connections > CONNECTIONS_MAX)
		return refuse("connections", connections, "expected 1 to 1048576");
	if (requests_per_turn == 0)
		return refuse("requests_per_turn", 0, "expected at least 1");
	if (chunk_size == 0 || chunk_size > 1u << 20)
		return refuse("chunk_size", chunk_size, "expected 1 to 1048576");
	if (growth_percent <= 100 || growth_percent > 100000)
		return refuse("growth_percent", growth_percent, "expected 101 to 100000");
	return 0;
}

int ub_parameters_read(struct ub_parameters *to)
{
	int error = check();

	if (error)
		return error;
	*to = (struct ub_parameters){
		.port = port,
		.udp = udp,
		.tcp = tcp,
		.workers = !tcp ? 0 : workers ?: min(num_online_cpus(), WORKERS_DEFAULT),
		.udp_workers = udp ? udp_workers : 0,
		.route_by_key = !strcmp(routing, "key"),
		.core = {
			.memory_bytes = (u64)memory_mb << 20,
			.item_bytes_max = item_size_max,
			.tcp_port = tcp ? port : 0,
			.udp_port = udp ? port : 0,
			.connections_max = connections,
			.requests_per_turn = requests_per_turn,
			.idle_timeout_s = idle_timeout,
			.chunk_bytes_min = chunk_size,
			.growth_percent = growth_percent,
			.evict = evict,
			.cas = cas,
			.flush_enabled = flush,
			.debug_time = debug_time,
			.protocol = find_in(protocols, "protocol", protocol, ""),
		},
	};
	to->core.tcp_workers = to->workers;
	to->core.engines = nr_cpu_ids + to->workers;
	return ub_address_read(address, &to->address) ?: read_ranges(*udp_allow ? udp_allow : near, &to->core);
}
