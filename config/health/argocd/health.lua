-- Health of Rollcall's kinds for Argo CD, by the conventions of kstatus: Stalled and Reconciling are there only while they are true.
-- For EndpointAction, EndpointPolicy, EnrollmentToken and Endpoint alike: put it under resource.customizations.health.rollcall.dev_<kind>.
local hs = { status = "Progressing", message = "waits for the manager to look at it" }
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end
hs = { status = "Healthy", message = obj.status.message or "" }
for _, c in ipairs(obj.status.conditions or {}) do
  if c.status == "True" and c.type == "Stalled" then
    return { status = "Degraded", message = c.reason .. ": " .. (c.message or "") }
  end
  if c.status == "True" and c.type == "Reconciling" then
    hs = { status = "Progressing", message = c.reason .. ": " .. (c.message or "") }
  end
end
return hs
