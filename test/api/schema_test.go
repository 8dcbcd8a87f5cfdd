package api_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// field is a place in a kind's schema: spec.heartbeat.missed, spec.selector.matchExpressions[].key, spec.labels{}.
type field struct {
	path     string
	required bool
	schema   *apiextensionsv1.JSONSchemaProps
}

// fields walks a kind's schema below spec and status.
func fields(t *testing.T, short string) []field {
	t.Helper()
	var found []field
	for _, objects := range manifests(t, "crd") {
		for _, object := range objects {
			crd, ok := object.(*apiextensionsv1.CustomResourceDefinition)
			if !ok || crd.Spec.Names.Kind != kinds[short] {
				continue
			}
			schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
			for _, part := range []string{"spec", "status"} {
				props := schema.Properties[part]
				found = walk(found, part, slices.Contains(schema.Required, part), &props)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no schema of %s", kinds[short])
	}
	return found
}

func walk(found []field, path string, required bool, s *apiextensionsv1.JSONSchemaProps) []field {
	found = append(found, field{path, required, s})
	for name, child := range s.Properties {
		found = walk(found, path+"."+name, slices.Contains(s.Required, name), &child)
	}
	if s.Items != nil {
		found = walk(found, path+"[]", false, s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		found = walk(found, path+"{}", false, s.AdditionalProperties.Schema)
	}
	return found
}

// condition tells whether a field is one of metav1.Condition, which is not ours to describe.
func (f field) condition() bool { return strings.Contains(f.path, ".conditions[]") }

func TestEveryFieldIsDocumented(t *testing.T) {
	const columns = 76 // of kubectl explain, whose own wrapping tears longer lines apart
	for short := range kinds {
		for _, f := range fields(t, short) {
			if f.condition() || strings.HasSuffix(f.path, "]") || strings.HasSuffix(f.path, "}") {
				continue
			}
			name := f.path[strings.LastIndex(f.path, ".")+1:]
			if !strings.HasPrefix(f.schema.Description, name) {
				t.Errorf("%s.%s: the description does not begin with the field's name: %q", short, f.path, f.schema.Description)
			}
			for line := range strings.Lines(f.schema.Description) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > columns {
					t.Errorf("%s.%s: a line of %d columns, more than the %d of kubectl explain: %q", short, f.path, n, columns, line)
				}
			}
			// kubectl explain shows no bounds but what the words say.
			if s := f.schema; s.Type == "integer" && strings.HasPrefix(f.path, "spec.") {
				for _, bound := range []*float64{s.Minimum, s.Maximum} {
					if bound != nil && !strings.Contains(s.Description, strconv.Itoa(int(*bound))) {
						t.Errorf("%s.%s: the description does not tell the bound %v", short, f.path, *bound)
					}
				}
			}
		}
	}
}

// Everything here is stored in etcd by whoever may write it, and the gateway faces the network.
func TestEveryFieldIsBounded(t *testing.T) {
	for short := range kinds {
		for _, f := range fields(t, short) {
			if err := bounded(f); err != nil && !f.condition() {
				t.Errorf("%s.%s: %v", short, f.path, err)
			}
		}
	}
}

func bounded(f field) error {
	s := f.schema
	switch s.Type {
	case "string":
		long := s.MaxLength == nil && !slices.ContainsFunc(s.AllOf, func(a apiextensionsv1.JSONSchemaProps) bool { return a.MaxLength != nil })
		if long && len(s.Enum) == 0 && s.Format != "date-time" {
			return fmt.Errorf("a string without maxLength, enum or date-time")
		}
	case "array":
		if s.MaxItems == nil && len(s.Items.Schema.Enum) == 0 {
			return fmt.Errorf("a list without maxItems")
		}
	case "object":
		if s.AdditionalProperties != nil && s.MaxProperties == nil {
			return fmt.Errorf("a map without maxProperties")
		}
	case "integer":
		if strings.HasPrefix(f.path, "spec.") && (s.Minimum == nil || s.Maximum == nil) {
			return fmt.Errorf("a number without minimum and maximum")
		}
	}
	return nil
}

// A default in a spec would be written by the API server, and show as a difference in every GitOps tool.
func TestNoDefaultsInSpec(t *testing.T) {
	for short := range kinds {
		for _, f := range fields(t, short) {
			if f.schema.Default != nil && f.path != "status" {
				t.Errorf("%s.%s has a default: %s", short, f.path, f.schema.Default.Raw)
			}
		}
	}
}
