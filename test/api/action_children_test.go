package api_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// What looks like a child of an action, and is not, would be counted for what was asked of its endpoint.
func TestPeopleMakeNoChildren(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author, mgr := person(t, ns, authors), manager(t)
	parent, err := author.of("epa", ns).Create(t.Context(), object(t, "epa", "parent", `spec: {type: PerformHeartbeat, `+onLaptops+`}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.OwnerReference{APIVersion: parent.GetAPIVersion(), Kind: parent.GetKind(), Name: parent.GetName(), UID: parent.GetUID(), Controller: ptr.To(true)}
	labelled := func(o *unstructured.Unstructured) {
		o.SetLabels(map[string]string{v1alpha1.LabelParent: string(parent.GetUID())})
	}
	owned := func(o *unstructured.Unstructured) { o.SetOwnerReferences([]metav1.OwnerReference{owner}) }
	const labels = "the label rollcall.dev/parent is the manager's: it makes the children of an action with a selector"
	const owners = "an object of rollcall.dev is made the owner of an action by the manager alone"

	plain := object(t, "epa", "plain", specs["epa"])
	if plain, err = author.of("epa", ns).Create(t.Context(), plain, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for words, mark := range map[string]func(*unstructured.Unstructured){labels: labelled, owners: owned} {
		made, changed := object(t, "epa", "made", specs["epa"]), plain.DeepCopy()
		mark(made)
		mark(changed)
		_, err := author.of("epa", ns).Create(t.Context(), made, metav1.CreateOptions{DryRun: dryRun})
		refused(t, err, words)
		_, err = author.of("epa", ns).Update(t.Context(), changed, metav1.UpdateOptions{DryRun: dryRun})
		refused(t, err, words)
	}

	child := object(t, "epa", "child", specs["epa"])
	labelled(child)
	owned(child)
	if child, err = mgr.of("epa", ns).Create(t.Context(), child, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cancelled, orphan, stranger := child.DeepCopy(), child.DeepCopy(), child.DeepCopy()
	spec, _ := cancelled.Object["spec"].(map[string]any)
	spec["cancel"] = true
	orphan.SetOwnerReferences(nil)
	orphan.SetLabels(nil)
	stranger.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", UID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b"}})
	for name, o := range map[string]*unstructured.Unstructured{"cancelled": cancelled, "orphaned": orphan, "of somebody else's": stranger} {
		if _, err := author.of("epa", ns).Update(t.Context(), o, metav1.UpdateOptions{DryRun: dryRun}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
