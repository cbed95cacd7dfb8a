//! The table of everything in Envoy's v3 API that this proxy understands.
//!
//! One line per message: its full name, and the fields that are read. A field with a `-` before
//! its name is accepted although nothing reads it, because it cannot change which bytes go where:
//! names of statistics, hints about threads and buffers, or a feature that is always on here.
//! Every other field is rejected by [`crate::config::strict`], with its path.

/// Message name, understood fields.
pub const UNDERSTOOD: &[(&str, &str)] = &[
    // --- listeners ---------------------------------------------------------------------
    (
        "envoy.config.listener.v3.Listener",
        "name address -stat_prefix filter_chains use_original_dst default_filter_chain \
         -per_connection_buffer_limit_bytes -metadata deprecated_v1 -drain_type listener_filters \
         listener_filters_timeout continue_on_listener_filters_timeout transparent \
         traffic_direction -connection_balance_config -reuse_port -enable_reuse_port access_log \
         -tcp_backlog_size -max_connections_to_accept_per_socket_event bind_to_port \
         -ignore_global_conn_limit -bypass_overload_manager",
    ),
    ("envoy.config.listener.v3.Listener.DeprecatedV1", "bind_to_port"),
    ("envoy.config.listener.v3.Listener.ConnectionBalanceConfig", "-exact_balance"),
    ("envoy.config.listener.v3.Listener.ConnectionBalanceConfig.ExactBalance", ""),
    (
        "envoy.config.listener.v3.FilterChain",
        "filter_chain_match filters -metadata transport_socket transport_socket_connect_timeout \
         name",
    ),
    (
        "envoy.config.listener.v3.FilterChainMatch",
        "destination_port prefix_ranges direct_source_prefix_ranges source_type \
         source_prefix_ranges source_ports server_names transport_protocol application_protocols",
    ),
    ("envoy.config.listener.v3.Filter", "name typed_config"),
    ("envoy.config.listener.v3.ListenerFilter", "name typed_config filter_disabled"),
    (
        "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
        "or_match and_match not_match any_match destination_port_range",
    ),
    ("envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet", "rules"),
    ("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", ""),
    (
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        // Sizes of a buffer that is bounded here in any case.
        "-initial_read_buffer_size -max_client_hello_size -enable_ja3_fingerprinting",
    ),
    ("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", ""),
    // --- network filters ---------------------------------------------------------------
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "-stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts \
         max_downstream_connection_duration",
    ),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster", "clusters"),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        "name weight",
    ),
    (
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        "rules shadow_rules -shadow_rules_stat_prefix -stat_prefix",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type -stat_prefix rds route_config http_filters common_http_protocol_options \
         http_protocol_options http2_protocol_options server_name server_header_transformation \
 max_request_headers_kb stream_idle_timeout request_timeout \
         request_headers_timeout   access_log \
         use_remote_address xff_num_trusted_hops internal_address_config skip_xff_append via \
         generate_request_id preserve_external_request_id always_set_request_id_in_response \
         forward_client_cert_details set_current_client_cert_details -proxy_100_continue \
         upgrade_configs normalize_path merge_slashes path_with_escaped_slashes_action \
         strip_matching_host_port strip_any_host_port  \
         strip_trailing_host_dot ",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
        "config_source route_config_name",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.\
         SetCurrentClientCertDetails",
        "subject cert chain dns uri",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.\
         UpgradeConfig",
        "upgrade_type enabled",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.\
         InternalAddressConfig",
        "-unix_sockets cidr_ranges",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        "name -is_optional typed_config disabled",
    ),
    // --- http filters ------------------------------------------------------------------
    (
        "envoy.extensions.filters.http.router.v3.Router",
        "-dynamic_stats -start_child_span suppress_envoy_headers",
    ),
    ("envoy.extensions.filters.http.cors.v3.Cors", ""),
    (
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match allow_methods allow_headers expose_headers max_age \
         allow_credentials filter_enabled forward_not_matching_preflights",
    ),
    (
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        "delay abort upstream_cluster headers max_active_faults",
    ),
    ("envoy.extensions.filters.common.fault.v3.FaultDelay", "fixed_delay percentage"),
    ("envoy.extensions.filters.http.fault.v3.FaultAbort", "http_status grpc_status percentage"),
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        "-emit_filter_state -enable_upstream_stats -stats_for_all_methods",
    ),
    (
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules -rules_stat_prefix shadow_rules -shadow_rules_stat_prefix",
    ),
    ("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac"),
    // --- authorization -----------------------------------------------------------------
    ("envoy.config.rbac.v3.RBAC", "action policies"),
    ("envoy.config.rbac.v3.Policy", "permissions principals"),
    (
        "envoy.config.rbac.v3.Permission",
        "and_rules or_rules any header url_path destination_ip destination_port \
         destination_port_range not_rule requested_server_name",
    ),
    ("envoy.config.rbac.v3.Permission.Set", "rules"),
    (
        "envoy.config.rbac.v3.Principal",
        "and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path \
         not_id",
    ),
    ("envoy.config.rbac.v3.Principal.Set", "ids"),
    ("envoy.config.rbac.v3.Principal.Authenticated", "principal_name"),
    // --- routes ------------------------------------------------------------------------
    (
        "envoy.config.route.v3.RouteConfiguration",
        "name virtual_hosts response_headers_to_add response_headers_to_remove \
         request_headers_to_add request_headers_to_remove most_specific_header_mutations_wins \
         validate_clusters max_direct_response_body_size_bytes ignore_port_in_host_matching \
         -metadata",
    ),
    (
        "envoy.config.route.v3.VirtualHost",
        "name domains routes require_tls request_headers_to_add request_headers_to_remove \
         response_headers_to_add response_headers_to_remove typed_per_filter_config \
         include_request_attempt_count include_attempt_count_in_response retry_policy -metadata",
    ),
    (
        "envoy.config.route.v3.Route",
        "name match -metadata -decorator typed_per_filter_config request_headers_to_add \
         request_headers_to_remove response_headers_to_add response_headers_to_remove \
         -stat_prefix route redirect direct_response",
    ),
    ("envoy.config.route.v3.Decorator", "-operation -propagate"),
    (
        "envoy.config.route.v3.RouteMatch",
        "prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers \
         query_parameters grpc",
    ),
    ("envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions", ""),
    (
        "envoy.config.route.v3.HeaderMatcher",
        "name exact_match safe_regex_match range_match present_match prefix_match suffix_match \
         contains_match string_match invert_match treat_missing_header_as_empty",
    ),
    ("envoy.config.route.v3.QueryParameterMatcher", "name string_match present_match"),
    (
        "envoy.config.route.v3.RouteAction",
        "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite \
         regex_rewrite append_x_forwarded_host timeout idle_timeout retry_policy -priority \
         hash_policy -max_grpc_timeout -grpc_timeout_offset upgrade_configs max_stream_duration \
         host_rewrite_literal auto_host_rewrite host_rewrite_header",
    ),
    ("envoy.config.route.v3.RouteAction.UpgradeConfig", "upgrade_type enabled"),
    (
        "envoy.config.route.v3.RouteAction.MaxStreamDuration",
        "max_stream_duration -grpc_timeout_header_max -grpc_timeout_header_offset",
    ),
    (
        "envoy.config.route.v3.RouteAction.HashPolicy",
        "header cookie connection_properties query_parameter terminal",
    ),
    ("envoy.config.route.v3.RouteAction.HashPolicy.Header", "header_name"),
    ("envoy.config.route.v3.RouteAction.HashPolicy.Cookie", "name ttl path"),
    ("envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties", "source_ip"),
    ("envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter", "name"),
    ("envoy.config.route.v3.WeightedCluster", "clusters total_weight -runtime_key_prefix"),
    (
        "envoy.config.route.v3.WeightedCluster.ClusterWeight",
        "name weight request_headers_to_add request_headers_to_remove response_headers_to_add \
         response_headers_to_remove host_rewrite_literal",
    ),
    (
        "envoy.config.route.v3.RetryPolicy",
        "retry_on num_retries per_try_timeout retry_host_predicate \
         host_selection_retry_max_attempts retriable_status_codes retry_back_off",
    ),
    ("envoy.config.route.v3.RetryPolicy.RetryBackOff", "base_interval max_interval"),
    ("envoy.config.route.v3.RetryPolicy.RetryHostPredicate", "name typed_config"),
    ("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", ""),
    (
        "envoy.config.route.v3.RedirectAction",
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite \
         regex_rewrite response_code strip_query",
    ),
    ("envoy.config.route.v3.DirectResponseAction", "status body"),
    // --- upstreams and endpoints -------------------------------------------------------
    (
        "envoy.config.cluster.v3.Cluster",
        "transport_socket_matches name -alt_stat_name type eds_cluster_config connect_timeout \
         -per_connection_buffer_limit_bytes lb_policy load_assignment \
         max_requests_per_connection circuit_breakers \
         common_http_protocol_options http_protocol_options http2_protocol_options \
         typed_extension_protocol_options dns_refresh_rate -dns_jitter -dns_failure_refresh_rate \
         -respect_dns_ttl dns_lookup_family -typed_dns_resolver_config outlier_detection \
         -cleanup_interval upstream_bind_config common_lb_config transport_socket metadata \
         protocol_selection upstream_connection_options ring_hash_lb_config maglev_lb_config \
         least_request_lb_config round_robin_lb_config original_dst_lb_config -filters",
    ),
    ("envoy.config.cluster.v3.Cluster.RefreshRate", "-base_interval -max_interval"),
    ("envoy.config.cluster.v3.Cluster.TransportSocketMatch", "name match transport_socket"),
    ("envoy.config.cluster.v3.Cluster.EdsClusterConfig", "eds_config service_name"),
    (
        "envoy.config.cluster.v3.Cluster.CommonLbConfig",
        "healthy_panic_threshold locality_weighted_lb_config -zone_aware_lb_config \
         -update_merge_window -close_connections_on_host_set_change",
    ),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig", ""),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig", ""),
    ("envoy.config.cluster.v3.Cluster.LeastRequestLbConfig", "choice_count active_request_bias"),
    ("envoy.config.cluster.v3.Cluster.RoundRobinLbConfig", ""),
    (
        "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
        "minimum_ring_size hash_function maximum_ring_size",
    ),
    ("envoy.config.cluster.v3.Cluster.MaglevLbConfig", "table_size"),
    ("envoy.config.cluster.v3.Cluster.OriginalDstLbConfig", ""),
    ("envoy.config.cluster.v3.CircuitBreakers", "thresholds"),
    (
        "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        "priority max_connections max_pending_requests max_requests max_retries -track_remaining",
    ),
    (
        "envoy.config.cluster.v3.OutlierDetection",
        "consecutive_5xx interval base_ejection_time max_ejection_percent \
         enforcing_consecutive_5xx enforcing_success_rate consecutive_gateway_failure \
         enforcing_consecutive_gateway_failure split_external_local_origin_errors \
         consecutive_local_origin_failure enforcing_consecutive_local_origin_failure",
    ),
    ("envoy.config.cluster.v3.UpstreamConnectionOptions", "tcp_keepalive"),
    ("envoy.config.core.v3.TcpKeepalive", "keepalive_probes keepalive_time keepalive_interval"),
    // Upstream network filters exchange peer metadata, an extension that stock Envoy lacks too.
    ("envoy.config.cluster.v3.Filter", "-name -typed_config"),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options explicit_http_config use_downstream_protocol_config",
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
        "http_protocol_options http2_protocol_options",
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
        "http_protocol_options http2_protocol_options",
    ),
    (
        "envoy.config.core.v3.HttpProtocolOptions",
        "idle_timeout max_connection_duration max_headers_count max_requests_per_connection \
         ",
    ),
    (
        "envoy.config.core.v3.Http1ProtocolOptions",
        "-allow_absolute_url accept_http_10 -enable_trailers ",
    ),
    (
        "envoy.config.core.v3.Http2ProtocolOptions",
        "max_concurrent_streams -initial_stream_window_size -initial_connection_window_size \
         -hpack_table_size connection_keepalive",
    ),
    ("envoy.config.core.v3.KeepaliveSettings", "interval timeout"),
    ("envoy.config.core.v3.BindConfig", "source_address"),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name endpoints policy"),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy", "overprovisioning_factor"),
    (
        "envoy.config.endpoint.v3.LocalityLbEndpoints",
        "locality lb_endpoints load_balancing_weight priority",
    ),
    (
        "envoy.config.endpoint.v3.LbEndpoint",
        "endpoint health_status metadata load_balancing_weight",
    ),
    ("envoy.config.endpoint.v3.Endpoint", "address hostname"),
    // --- tls ---------------------------------------------------------------------------
    (
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context require_client_certificate -disable_stateful_session_resumption",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context sni auto_host_sni auto_sni_san_validation",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context \
         validation_context_sds_secret_config combined_validation_context alpn_protocols",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.\
         CombinedCertificateValidationContext",
        "default_validation_context validation_context_sds_secret_config",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        "trusted_ca match_typed_subject_alt_names match_subject_alt_names",
    ),
    ("envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher", "san_type matcher"),
    ("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", "name sds_config"),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        "tls_minimum_protocol_version tls_maximum_protocol_version -cipher_suites -ecdh_curves",
    ),
    ("envoy.extensions.transport_sockets.tls.v3.Secret", "name tls_certificate validation_context"),
    ("envoy.extensions.transport_sockets.tls.v3.TlsCertificate", "certificate_chain private_key"),
    ("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", ""),
    // --- access logs -------------------------------------------------------------------
    ("envoy.config.accesslog.v3.AccessLog", "name filter typed_config"),
    ("envoy.config.accesslog.v3.AccessLogFilter", "response_flag_filter"),
    ("envoy.config.accesslog.v3.ResponseFlagFilter", "flags"),
    ("envoy.extensions.access_loggers.file.v3.FileAccessLog", "path format json_format log_format"),
    ("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", "log_format"),
    // --- shared ------------------------------------------------------------------------
    (
        "envoy.config.core.v3.SubstitutionFormatString",
        // Every operator is always available, so the list of formatters adds nothing.
        "text_format text_format_source json_format omit_empty_values -formatters",
    ),
    ("envoy.config.core.v3.TypedExtensionConfig", "name typed_config"),
    ("envoy.config.core.v3.Address", "socket_address pipe"),
    ("envoy.config.core.v3.SocketAddress", "protocol address port_value -ipv4_compat"),
    ("envoy.config.core.v3.Pipe", "path"),
    ("envoy.config.core.v3.CidrRange", "address_prefix prefix_len"),
    ("envoy.config.core.v3.Locality", "region zone sub_zone"),
    ("envoy.config.core.v3.Metadata", "filter_metadata -typed_filter_metadata"),
    ("envoy.config.core.v3.TransportSocket", "name typed_config"),
    (
        "envoy.config.core.v3.ConfigSource",
        "ads -initial_fetch_timeout -resource_api_version api_config_source",
    ),
    ("envoy.config.core.v3.AggregatedConfigSource", ""),
    // Secrets come from the agent whatever the transport says.
    (
        "envoy.config.core.v3.ApiConfigSource",
        "-api_type -transport_api_version -grpc_services -set_node_on_first_message_only",
    ),
    ("envoy.config.core.v3.GrpcService", "-envoy_grpc"),
    ("envoy.config.core.v3.GrpcService.EnvoyGrpc", "-cluster_name"),
    ("envoy.config.core.v3.DataSource", "filename inline_bytes inline_string"),
    ("envoy.config.core.v3.HeaderValueOption", "header append append_action keep_empty_value"),
    ("envoy.config.core.v3.HeaderValue", "key value"),
    ("envoy.config.core.v3.RuntimeFractionalPercent", "default_value -runtime_key"),
    ("envoy.config.core.v3.RuntimeDouble", "default_value -runtime_key"),
    ("envoy.type.v3.FractionalPercent", "numerator denominator"),
    ("envoy.type.v3.Percent", "value"),
    ("envoy.type.v3.Int64Range", "start end"),
    ("envoy.type.v3.Int32Range", "start end"),
    ("envoy.type.matcher.v3.StringMatcher", "exact prefix suffix safe_regex contains ignore_case"),
    ("envoy.type.matcher.v3.RegexMatcher", "regex google_re2"),
    ("envoy.type.matcher.v3.RegexMatcher.GoogleRE2", "-max_program_size"),
    ("envoy.type.matcher.v3.PathMatcher", "path"),
    ("envoy.type.matcher.v3.RegexMatchAndSubstitute", "pattern substitution"),
];
