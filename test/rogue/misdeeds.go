package rogue

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// What it can be asked for. The first few are no misdeeds by themselves, but what others need.
const (
	// Honest ends all lies.
	Honest Misdeed = "honest"
	// Hush ends what agents are sent, and the trust that is published. The time stays what it was told to be.
	Hush Misdeed = "hush"
	// Withhold keeps all true actions from agents, from now on.
	Withhold Misdeed = "withhold"
	// Keep keeps the beacon of now, and the assignment of an endpoint.
	Keep Misdeed = "keep"

	// Forge sends an agent orders that its own key has signed, and publishes a trust bundle that says that this is the fleet's.
	Forge Misdeed = "forge"
	// Alter sends an agent the order of an action with other content under the same signature.
	Alter Misdeed = "alter"
	// Replay sends an agent the order of an action, whatever has become of that, and whomever it was for.
	Replay Misdeed = "replay"
	// Readdress sends an agent the order of another's action, altered so that it names this one.
	Readdress Misdeed = "readdress"
	// Rewind tells all agents that it is the time of the beacon that was kept, until Honest.
	Rewind Misdeed = "rewind"
	// Relapse sends an agent the assignment that was kept. Its policy the agent still has.
	Relapse Misdeed = "relapse"
	// OtherPolicy sends an agent a policy that is not its own, and the assignment of another endpoint that has it.
	OtherPolicy Misdeed = "other-policy"
	// KeepOffer keeps the offer of a release as it is now; Offer sends an agent that, or the newest of a release that was not kept.
	KeepOffer Misdeed = "keep-offer"
	Offer     Misdeed = "offer"
	// ForgeOffer sends an agent an offer that its own key has signed.
	ForgeOffer Misdeed = "forge-offer"
	// OwnRoot publishes a trust bundle of its own as the fleet's only one, until Honest.
	OwnRoot Misdeed = "own-root"

	// Enrol asks for agents' certificates that nobody has a token or a key for.
	Enrol Misdeed = "enrol"
	// Pose asks for a serving certificate with a name that is none of the gateways'.
	Pose Misdeed = "pose"
	// RewriteAction changes what the manager has written of an action that is open.
	RewriteAction Misdeed = "rewrite-action"
	// RewriteEndpoint changes what the manager has written of an endpoint.
	RewriteEndpoint Misdeed = "rewrite-endpoint"
	// Reopen takes an action that has ended, and another that was sent, back to an earlier phase.
	Reopen Misdeed = "reopen"
	// EndWithoutProof ends an action in its agent's name without the agent's signature.
	EndWithoutProof Misdeed = "end-without-proof"
	// EndWithOwnProof ends it with its own signature.
	EndWithOwnProof Misdeed = "end-with-own-proof"
	// EndWithOldDate does too, and says that this was two days ago.
	EndWithOldDate Misdeed = "end-with-old-date"
	// EndWithOtherProof ends it with what the agent has signed of another action.
	EndWithOtherProof Misdeed = "end-with-other-proof"
	// Secrets reads Secrets.
	Secrets Misdeed = "secrets"
	// Objects creates, changes and deletes objects.
	Objects Misdeed = "objects"
	// Rights takes more rights.
	Rights Misdeed = "rights"
)

var misdeeds = map[Misdeed]func(*Rogue, context.Context, Ask) ([]Attempt, error){
	Honest: (*Rogue).behave, Hush: (*Rogue).hush, Withhold: (*Rogue).withhold, Keep: (*Rogue).keep,
	Forge: (*Rogue).forge, Alter: (*Rogue).alter, Replay: (*Rogue).replay, Readdress: (*Rogue).readdress, Rewind: (*Rogue).rewind,
	Relapse: (*Rogue).relapse, OtherPolicy: (*Rogue).otherPolicy,
	KeepOffer: (*Rogue).keepOffer, Offer: (*Rogue).offer, ForgeOffer: (*Rogue).forgeOffer, OwnRoot: (*Rogue).ownRoot,
	Enrol: (*Rogue).enrol, Pose: (*Rogue).pose,
	RewriteAction: (*Rogue).rewriteAction, RewriteEndpoint: (*Rogue).rewriteEndpoint, Reopen: (*Rogue).reopen, EndWithoutProof: (*Rogue).endWithoutProof,
	EndWithOwnProof: (*Rogue).endWithOwnProof, EndWithOldDate: (*Rogue).endWithOldDate, EndWithOtherProof: (*Rogue).endWithOtherProof,
	Secrets: (*Rogue).secrets, Objects: (*Rogue).objects, Rights: (*Rogue).rights,
}

// read reads an object of ours with the gateway's token, which may list all kinds, and get few of them.
func read[T any, P interface {
	*T
	client.Object
}](ctx context.Context, r *Rogue, namespace, name string) (P, error) {
	o, found := P(new(T)), &unstructured.UnstructuredList{}
	kind, err := r.api.GroupVersionKindFor(o)
	if err == nil {
		found.SetGroupVersionKind(kind)
		err = r.api.List(ctx, found, client.InNamespace(namespace), client.MatchingFields{"metadata.name": name})
	}
	if err == nil && len(found.Items) == 0 {
		err = errors.New("it does not exist")
	}
	if err == nil {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(found.Items[0].Object, o)
	}
	if err != nil {
		return nil, fmt.Errorf("read %T %s/%s: %w", o, namespace, name, err)
	}
	return o, nil
}

func (r *Rogue) endpoint(ctx context.Context, namespace, name string) (*v1alpha1.Endpoint, error) {
	ep, err := read[v1alpha1.Endpoint](ctx, r, namespace, name)
	if err == nil && (ep.Status.Identity == nil || ep.Status.Policy == nil || ep.Status.Agent == nil) {
		err = fmt.Errorf("endpoint %s has not enrolled, or was not heard of yet", name)
	}
	return ep, err
}

// action reads one that was admitted.
func (r *Rogue) action(ctx context.Context, namespace, name string) (*v1alpha1.EndpointAction, error) {
	a, err := read[v1alpha1.EndpointAction](ctx, r, namespace, name)
	if err == nil && a.Status.Admission == nil {
		err = fmt.Errorf("action %s was not admitted: %s", name, a.Status.Message)
	}
	return a, err
}
