// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Keeps netfilter's way in switched on for both families, by hooks that do nothing, in the namespace of whoever loads
 * it. For test machines whose processors are emulated at the same time: a kernel switches that way on for the first hook,
 * and off after the last, by patching code that runs, and such an emulator may go on running what was patched. See
 * docs/MODULE.md.
 */
#include <linux/module.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/nsproxy.h>
#include <linux/sched.h>
#include <net/net_namespace.h>

static unsigned int pass(void *unused, struct sk_buff *skb, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static const struct nf_hook_ops hooks[] = {
	{ .hook = pass, .pf = NFPROTO_IPV4, .hooknum = NF_INET_LOCAL_IN },
	{ .hook = pass, .pf = NFPROTO_IPV6, .hooknum = NF_INET_LOCAL_IN },
};

/* There is no way out: it stays until the machine ends, and the namespace with it. */
static int __init hold(void)
{
	struct net *net = get_net(current->nsproxy->net_ns);
	int error = nf_register_net_hooks(net, hooks, ARRAY_SIZE(hooks));

	if (error)
		put_net(net);
	return error;
}

module_init(hold);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Unbuckle's tests: keeps netfilter's hooks switched on");
