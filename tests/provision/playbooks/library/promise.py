from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({"versions": {"type": "dict"}}, supports_check_mode=True)
module.exit_json(changed=False, versions=module.params["versions"])
