-- +goose Up
-- The figures of a rollout had the names of Go fields.
UPDATE rollouts SET figures = json_object(
    'targets',  figures ->> 'Targets',
    'applied',  figures ->> 'Applied',
    'failed',   figures ->> 'Failed',
    'pending',  figures ->> 'Pending',
    'offline',  figures ->> 'Offline',
    'degraded', coalesce(figures ->> 'Degraded', 0),
    'first_applied_at', figures ->> 'FirstAppliedAt',
    'latency', json_object(
        'agents', figures ->> '$.Latency.Agents',
        'p50_ns', figures ->> '$.Latency.P50',
        'p90_ns', figures ->> '$.Latency.P90',
        'p99_ns', figures ->> '$.Latency.P99',
        'max_ns', figures ->> '$.Latency.Max'),
    'failures', json((
        SELECT json_group_array(json_object(
            'error', value ->> 'Error', 'count', value ->> 'Count', 'sample_agents', value -> 'Samples') ORDER BY key)
        FROM json_each(figures, '$.Failures') WHERE type = 'object')),
    'stragglers', json((
        SELECT json_group_array(json_object(
            'id', value ->> 'ID', 'hostname', value ->> 'Hostname', 'status', value ->> 'Status',
            'applied_version', value ->> 'Applied', 'last_poll', value ->> 'LastPoll') ORDER BY key)
        FROM json_each(figures, '$.Stragglers') WHERE type = 'object')));
