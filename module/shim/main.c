// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Loading and unloading: puts the facilities together, in order, and takes them apart in the opposite one. Whatever
 * fails leaves nothing behind, and has said why.
 */
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/random.h>
#include <linux/sched.h>
#include "shim.h"

static struct ub_parameters parameters;
static struct ub_memory memory;
/* The namespace of whoever loads the module. It lives as long as the module does. */
static struct net *home;

/* Whoever serves, before anybody listens. */
static int start_workers(void)
{
	int error = parameters.tcp ? ub_tcp_start(&parameters) : 0;

	if (error)
		return error;
	error = parameters.udp ? ub_udp_workers_start(&parameters) : 0;
	if (error && parameters.tcp)
		ub_tcp_stop();
	return error;
}

static void stop_workers(void)
{
	if (parameters.udp)
		ub_udp_workers_stop();
	if (parameters.tcp)
		ub_tcp_stop();
}

static int __init ub_init(void)
{
	int error;

	if (unbuckle_core_abi() != UNBUCKLE_ABI) {
		pr_err("the shim is for core interface %d, the core has %u\n", UNBUCKLE_ABI, unbuckle_core_abi());
		return -EINVAL;
	}
	error = ub_parameters_read(&parameters);
	if (error)
		return error;
	get_random_bytes(parameters.core.seed, sizeof(parameters.core.seed));
	ub_time_begin(&parameters.core);
	error = ub_memory_take(&memory, &parameters.core);
	if (error)
		return error;
	error = ub_engines_start(&parameters, &memory);
	if (error)
		goto memory;
	error = ub_report_start();
	if (error)
		goto engines;
	error = start_workers();
	if (error)
		goto report;
	ub_hook_prepare(&parameters);
	home = get_net(current->nsproxy->net_ns);
	error = ub_namespaces_start(home, &parameters);
	if (error)
		goto workers;
	pr_info("serving%s%s on port %u with %llu MiB\n", parameters.tcp ? " TCP" : "", parameters.udp ? " UDP" : "",
		parameters.port, parameters.core.memory_bytes >> 20);
	return 0;
workers:
	put_net(home);
	stop_workers();
report:
	ub_report_stop();
engines:
	ub_engines_stop();
memory:
	ub_memory_give(&memory);
	return error;
}

static void __exit ub_exit(void)
{
	ub_namespaces_stop();
	put_net(home);
	stop_workers();
	ub_report_stop();
	ub_engines_stop();
	ub_memory_give(&memory);
	pr_info("gone\n");
}

module_init(ub_init);
module_exit(ub_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_AUTHOR("The Unbuckle authors");
MODULE_DESCRIPTION("Unbuckle: a memcached-compatible key-value store in the kernel");
MODULE_VERSION("0.1.0");
