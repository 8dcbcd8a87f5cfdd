//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// roll replaces every Pod of a Deployment, while actions are asked for.
func (t *trial) roll(ctx context.Context, deployment string) (string, error) {
	before, err := t.fleet.gateways(ctx)
	if err != nil {
		return "", err
	}
	a, err := t.fleet.ask(ctx, "roll-"+deployment)
	if err != nil {
		return "", err
	}
	defer a.stop()
	if _, _, err := t.kubectl(ctx, "rollout", "restart", "deployment/"+deployment, "-n", system); err != nil {
		return "", err
	}
	if err := t.rolledOut(ctx, deployment); err != nil {
		return "", err
	}
	if err := t.fleet.online(ctx); err != nil {
		return "", err
	}
	after, err := t.fleet.gateways(ctx)
	if err != nil {
		return "", err
	}
	for name, alive := range before {
		if _, left := after[name]; alive && left {
			return "", fmt.Errorf("the gateway %s was killed before it had done all that it does at its end: its Lease is still there", name)
		}
	}
	fates, err := a.fates(ctx)
	return "kubectl rollout restart: " + fates, err
}

// evict asks for two gateways at once: the budget grants one, and the other when the first one's successor is ready.
func (t *trial) evict(ctx context.Context) (string, error) {
	pods, err := t.pods(ctx, "gateway")
	if err != nil || len(pods) != 2 {
		return "", errors.Join(err, fmt.Errorf("%d gateways", len(pods)))
	}
	out := func(p corev1.Pod) error {
		return t.admin.PolicyV1().Evictions(system).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: p.Name}})
	}
	if err := out(pods[0]); err != nil {
		return "", err
	}
	if err := out(pods[1]); !apierrors.IsTooManyRequests(err) {
		return "", fmt.Errorf("the eviction of a second gateway beside the first: %w; want a refusal by the budget", err)
	}
	refusals := 1
	if err := local.Poll(ctx, patience, 200*time.Millisecond, func() error {
		err := out(pods[1])
		if err != nil {
			refusals++
		}
		return err
	}); err != nil {
		return "", err
	}
	if err := t.rolledOut(ctx, "rollcall-manager"); err != nil {
		return "", err
	}
	return fmt.Sprintf("one Pod went at once, the other was refused %d times, until there was another", refusals), t.fleet.online(ctx)
}

// drain empties the only node: one gateway stays, as there is nowhere for another.
func (t *trial) drain(ctx context.Context) (string, error) {
	_, said, err := t.kubectl(ctx, "drain", "node", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=45s")
	if err == nil {
		return "", errors.New("the only node was drained, with every gateway")
	}
	const budget = "Cannot evict pod as it would violate the pod's disruption budget"
	if !strings.Contains(said, budget) {
		return "", fmt.Errorf("kubectl drain: %w; want %q", err, budget)
	}
	pods, err := t.pods(ctx, "gateway")
	if err != nil {
		return "", err
	}
	left := 0
	for _, p := range pods {
		if ready(p) {
			left++
		}
	}
	if left != 1 {
		return "", fmt.Errorf("%d gateways are ready on the drained node, want 1", left)
	}
	if err := t.fleet.online(ctx); err != nil {
		return "", err
	}
	if _, _, err := t.kubectl(ctx, "uncordon", "node"); err != nil {
		return "", err
	}
	return "kubectl drain of the only node leaves one gateway with all agents; uncordon brings the other back", t.rolledOut(ctx, "rollcall-manager")
}

// kill ends a container's process as kill -9 does: of the manager that leads, or of the gateway that has most agents.
func (t *trial) kill(ctx context.Context, container string) (string, error) {
	pods, err := t.pods(ctx, container)
	if err != nil || len(pods) == 0 {
		return "", errors.Join(err, errors.New("there is no Pod"))
	}
	victim := pods[0]
	if container == "gateway" {
		busiest, err := t.fleet.busiest(ctx)
		if err != nil {
			return "", err
		}
		for _, p := range pods {
			if strings.HasPrefix(busiest, "gw-"+p.Name[len(p.Name)-5:]+"-") {
				victim = p
			}
		}
	} else {
		lease, err := t.admin.CoordinationV1().Leases(system).Get(ctx, "rollcall-manager", get)
		if err != nil || lease.Spec.HolderIdentity == nil {
			return "", errors.Join(err, errors.New("no manager leads"))
		}
		for _, p := range pods {
			if strings.HasPrefix(*lease.Spec.HolderIdentity, p.Name) {
				victim = p
			}
		}
	}
	was := restarts(victim, container)
	pid, err := processOf(victim.Name, container)
	if err != nil {
		return "", err
	}
	a, err := t.fleet.ask(ctx, fmt.Sprintf("kill-%s-%d", container, pid))
	if err != nil {
		return "", err
	}
	defer a.stop()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return "", err
	}
	if err := local.Poll(ctx, patience, 200*time.Millisecond, func() error {
		now, err := t.admin.CoreV1().Pods(system).Get(ctx, victim.Name, get)
		if err == nil && (restarts(*now, container) != was+1 || !ready(*now)) {
			err = fmt.Errorf("%s of %s: restarted %d times before and %d times now, Pod ready: %t", container, now.Name, was, restarts(*now, container), ready(*now))
		}
		return err
	}); err != nil {
		return "", err
	}
	if err := t.fleet.online(ctx); err != nil {
		return "", err
	}
	fates, err := a.fates(ctx)
	return "it is back; " + fates, err
}

// documented runs every command of docs/operations.md, one after the other. They end with two Deployments.
func (t *trial) documented(ctx context.Context) (string, error) {
	commands, _, err := harness.Commands("docs/operations.md")
	if err != nil {
		return "", err
	}
	stand := map[string]form{"-k .": together, "-k config/overlays/split": apart}
	if _, _, err := t.kubectl(ctx, "create", "namespace", "monitoring"); err != nil { // as the document takes for granted
		return "", err
	}
	run := 0
	for _, c := range commands {
		if !c.Block {
			continue
		}
		text := c.Text
		for shown, f := range stand {
			dir, err := t.write(f)
			if err != nil {
				return "", err
			}
			text = strings.Replace(text, shown, "-k "+dir, 1)
		}
		cmd := exec.CommandContext(ctx, "bash", "-eu", "-c", text)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(t.node.Kubectl)+":"+os.Getenv("PATH"), "KUBECONFIG="+t.node.Kubeconfig)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", c, err, out)
		}
		run++
	}
	return fmt.Sprintf("its %d commands", run), nil
}

// split sees that there are two Deployments now, as they are shipped.
func (t *trial) split(ctx context.Context) (string, error) {
	said, err := t.install(ctx, apart)
	if err != nil {
		return "", err
	}
	// an apply brings back no right that was taken away
	if _, err := t.admin.RbacV1().Roles(system).Get(ctx, "rollcall-gateway-token", get); !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("the manager may still make tokens: %w", err)
	}
	return said, t.fleet.online(ctx)
}

// outageTime is longer than a leader keeps its lead, and than probes put up with.
const outageTime = time.Minute

// outage takes the API server away. The leader ends, starts again and waits, without being killed for it; the gateways stay, and so do the agents.
func (t *trial) outage(ctx context.Context) (string, error) {
	before, err := t.pods(ctx, "manager")
	if err != nil {
		return "", err
	}
	if err := t.node.Outage(ctx, func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(outageTime):
			return nil
		}
	}); err != nil {
		return "", err
	}
	began := time.Now()
	restarted := 0
	if err := local.Poll(ctx, patience, 200*time.Millisecond, func() error {
		after, err := t.pods(ctx, "manager")
		if err != nil || len(after) != len(before) {
			return errors.Join(err, fmt.Errorf("%d Pods, %d before", len(after), len(before)))
		}
		restarted = 0
		for i, p := range after {
			if p.Name != before[i].Name || restarts(p, "gateway") != restarts(before[i], "gateway") || restarts(p, "manager") > restarts(before[i], "manager")+1 {
				return fmt.Errorf("%s was restarted too often: the gateway %d times and the manager %d times, before %d and %d", p.Name,
					restarts(p, "gateway"), restarts(p, "manager"), restarts(before[i], "gateway"), restarts(before[i], "manager"))
			}
			restarted += restarts(p, "manager") - restarts(before[i], "manager")
			if !ready(p) {
				return fmt.Errorf("%s is not ready", p.Name)
			}
		}
		if restarted == 0 {
			return errors.New("the kubelet has not told yet that the leader was started again")
		}
		return nil
	}); err != nil {
		return "", err
	}
	took := time.Since(began)
	return fmt.Sprintf("for %s: of the managers %d started again, once, and waited, no gateway did; all Pods are ready after %.0fs", outageTime, restarted, took.Seconds()), t.fleet.online(ctx)
}

// identity looks into every gateway as the node sees it: which tokens and keys are in its files, and who the API server says it is by them.
func (t *trial) identity(ctx context.Context) (string, error) {
	pods, err := t.pods(ctx, "gateway")
	if err != nil {
		return "", err
	}
	const want = "system:serviceaccount:" + system + ":rollcall-gateway"
	files := 0
	for _, p := range pods {
		pid, err := processOf(p.Name, "gateway")
		if err != nil {
			return "", err
		}
		found, err := look(pid)
		if err != nil {
			return "", err
		}
		files += found.files
		if len(found.keys) > 0 || len(found.tokens) != 1 {
			return "", fmt.Errorf("in the gateway's files of %s are the tokens %v and the keys %v; want one token", p.Name, found.paths(), found.keys)
		}
		for path, token := range found.tokens {
			who, may, err := t.whoIs(ctx, token)
			if err != nil {
				return "", err
			}
			if who != want || len(may) > 0 {
				return "", fmt.Errorf("the token in %s of %s is of %s, who may %v; want %s, who may nothing of that", path, p.Name, who, may, want)
			}
		}
	}
	return fmt.Sprintf("%d gateways see %d files, in them one token each: %s, who may read no Secret", len(pods), files, want), nil
}

// whoIs asks the API server with a token who that is, and which of some rights that a gateway must not have it has.
func (t *trial) whoIs(ctx context.Context, token string) (who string, may []string, err error) {
	config := rest.AnonymousClientConfig(t.node.Admin)
	config.BearerToken = token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", nil, err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", nil, err
	}
	for _, right := range []authorizationv1.ResourceAttributes{
		{Verb: "get", Resource: "secrets", Namespace: system, Name: "rollcall-order-key"},
		{Verb: "list", Resource: "secrets", Namespace: system},
		{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: system, Name: "rollcall-manager"},
		{Verb: "create", Group: "rollcall.dev", Resource: "endpointactions", Namespace: tenant},
		{Verb: "approve", Group: "certificates.k8s.io", Resource: "signers", Name: "rollcall.dev/agent"},
	} {
		answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
			&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right}}, metav1.CreateOptions{})
		if err != nil {
			return "", nil, err
		}
		if answer.Status.Allowed {
			may = append(may, right.Verb+" "+right.Resource)
		}
	}
	return review.Status.UserInfo.Username, may, nil
}
