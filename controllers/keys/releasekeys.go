package keys

import (
	"context"
	"crypto"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// ReleaseKeys is the ConfigMap that holds whose releases the fleet believes: each value is a minisign public key. People write it.
const ReleaseKeys = "rollcall-release-keys"

// maxReleaseKeys leaves room in a trust bundle for the others.
const maxReleaseKeys = 8

// SetupWithManager adds the publisher to a manager, and has it publish at once when the release keys change.
func (p *Publisher) SetupWithManager(mgr ctrl.Manager) error {
	p.nudged = make(chan struct{}, 1)
	if err := mgr.Add(p); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).Named("releasekeys").For(&corev1.ConfigMap{}).Complete(reconcile.Func(
		func(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
			_, wrong, err := p.Store.releaseKeys(ctx)
			for name, why := range wrong {
				log.FromContext(ctx).Info("A release key is not usable, and is passed over.", "key", name, "reason", why.Error())
			}
			select {
			case p.nudged <- struct{}{}:
			default:
			}
			return reconcile.Result{}, err
		}))
}

// releaseKeys are those in the ConfigMap, in the order of their names, and what is wrong with others.
func (s Store) releaseKeys(ctx context.Context) (found []crypto.PublicKey, wrong map[string]error, err error) {
	cm := &corev1.ConfigMap{}
	err = s.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: ReleaseKeys}, cm)
	if err != nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	wrong = map[string]error{}
	for _, name := range slices.Sorted(maps.Keys(cm.Data)) {
		key, err := content.ParseReleaseKey(cm.Data[name])
		switch {
		case err != nil:
			wrong[name] = err
		case len(found) == maxReleaseKeys:
			wrong[name] = fmt.Errorf("there are more than %d", maxReleaseKeys)
		default:
			found = append(found, key)
		}
	}
	return found, wrong, nil
}

// setReleaseKeys has a bundle name these release keys, and no others.
func setReleaseKeys(b *agentv1.TrustBundle, all []crypto.PublicKey) {
	uses := []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_CONTENT}
	b.Keys = slices.DeleteFunc(b.Keys, func(k *agentv1.TrustKey) bool { return slices.Equal(k.GetUses(), uses) })
	for _, key := range all {
		if der := spki(key); !hasKey(b, der) { // nor may one that signs orders sign releases
			b.Keys = append(b.Keys, &agentv1.TrustKey{Spki: der, Uses: uses})
		}
	}
}
